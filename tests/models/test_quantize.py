"""Frozen kernels in few bits: codes, packing, error bounds by hand; a decoder on them is one on their dense values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.scipy.stats import norm

from visa_jax.config import UserError
from visa_jax.models.layers import product
from visa_jax.models.quantize import (
    NF4,
    Int8,
    Nf4,
    decode,
    dense_params,
    pack,
    quantize_int8,
    quantize_nf4,
    quantize_params,
)

KERNEL = jax.random.normal(jax.random.key(0), (8, 3, 2))


def test_the_codes_are_quantiles_of_the_normal_distribution():
    """7 + 1 quantiles below 0 and 8 + 1 above, 0 of both one, ends at 1/2 (1/32 + 1/30) of mass, scaled to [-1, 1]."""
    offset = 1 - (1 / 32 + 1 / 30) / 2
    above = norm.ppf(jnp.linspace(offset, 0.5, 9))[:-1]
    below = -norm.ppf(jnp.linspace(offset, 0.5, 8))[:-1]
    codes = jnp.sort(jnp.concatenate([above, below, jnp.zeros(1)])) / jnp.max(above)
    assert len(NF4) == 16 and NF4[7] == 0.0
    np.testing.assert_allclose(NF4, codes, atol=1e-5)


def test_int8_by_hand():
    # the largest of the channels are 127 and 2.54, so the steps are 1 and 0.02: 0.4 -> 0, -63.6 -> -64, 0.031 -> 2
    kernel = jnp.array([[127.0, 0.031], [0.4, -2.54], [-63.6, 0.0]])
    made = quantize_int8(kernel, inputs=1)
    assert made.level.dtype == jnp.int8 and made.level.tolist() == [[127, 2], [0, -127], [-64, 0]]
    np.testing.assert_allclose(made.step, [[1.0, 0.02]], rtol=1e-6)
    np.testing.assert_allclose(made.dense(), [[127, 0.04], [0, -2.54], [-64, 0]], rtol=1e-6)


@pytest.mark.parametrize("inputs", [1, 2])
def test_int8_is_at_most_half_a_step_off(inputs):
    made = quantize_int8(KERNEL, inputs)
    assert made.step.shape == (1,) * inputs + KERNEL.shape[inputs:]
    assert float(jnp.max(jnp.abs(made.dense() - KERNEL) / jnp.broadcast_to(made.step, KERNEL.shape))) <= 0.5 + 1e-5


def test_nf4_by_hand():
    # one block, largest 2: halves are 1, 0.46, -0.04, -0.7; codes 15, 12 (0.4407), 7 (0), 1 (-0.6962)
    made = quantize_nf4(jnp.array([[2.0], [0.92], [-0.08], [-1.4]]), 1, 4)
    assert made.packed.tolist() == [[15 * 16 + 7], [12 * 16 + 1]] and made.largest.tolist() == [[2.0]]
    np.testing.assert_allclose(made.dense()[:, 0], [2, 2 * 0.44070983, 0, 2 * -0.69619280], rtol=1e-6)


def test_nf4_takes_the_nearest_code_in_every_block():
    made = quantize_nf4(KERNEL, 1, 4)
    blocks = np.asarray(KERNEL).reshape(2, 4, 6)
    largest = np.abs(blocks).max(1, keepdims=True)
    error = np.abs(np.asarray(made.dense()).reshape(blocks.shape) - blocks) / largest
    nearest = np.abs(blocks[..., None] / largest[..., None] - np.asarray(NF4)).min(-1)
    np.testing.assert_allclose(error, nearest, atol=1e-6)
    assert error.max() <= np.diff(NF4).max() / 2  # half of the largest distance of neighbours
    assert made.packed.nbytes == KERNEL.size // 2 and made.packed.shape == (4, 6)


def test_packing_joins_rows_half_a_block_apart():
    # blocks of four rows: 1, 2, 3, 4 and 5, 6, 7, 8
    assert pack(jnp.arange(1, 9)[:, None], 4)[:, 0].tolist() == [1 * 16 + 3, 2 * 16 + 4, 5 * 16 + 7, 6 * 16 + 8]


def test_decoding_is_looking_up():
    assert (decode(jnp.arange(16, dtype=jnp.uint8)) == jnp.asarray(NF4, jnp.float32)).all()


def test_zeros_stay_zeros():
    zeros = jnp.zeros((4, 2))
    assert (quantize_int8(zeros, 1).dense() == 0).all() and (quantize_nf4(zeros, 1, 2).dense() == 0).all()


@pytest.mark.parametrize("make", [lambda k: quantize_int8(k, 2), lambda k: quantize_nf4(k, 2, 6)], ids=["int8", "nf4"])
@pytest.mark.parametrize(("dtype", "rounding"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2**-8)])
def test_the_product_is_that_with_the_dense_kernel(make, dtype, rounding):
    """Nf4 adds up in another order: a last place of the sum of magnitudes; the gradient of x is dy @ kernel^T."""
    record, x = make(KERNEL), jax.random.normal(jax.random.key(2), (5, 24), dtype)
    dense = record.dense().astype(dtype).reshape(24, 2)
    assert record.shape == KERNEL.shape

    def close(got, left, right):
        assert got.dtype == dtype
        wide, other = left.astype(jnp.float32), right.astype(jnp.float32)
        off = jnp.abs(got.astype(jnp.float32) - wide @ other)
        assert (off <= rounding * (jnp.abs(wide) @ jnp.abs(other))).all()

    out, pull = jax.vjp(lambda x: product(x, record), x)
    close(out, x, dense)
    close(pull(jnp.ones_like(out))[0], jnp.ones_like(out), dense.T)


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize(("kind", "record"), [("int8", Int8), ("nf4", Nf4)])
def test_a_decoder_on_records_is_one_on_their_dense_values(tiny, build, tokens, kind, record, scan_layers):
    lm, params = build(tiny(scan_layers=scan_layers, tie_embeddings=False))
    frozen = quantize_params(params, kind, "attention/.*|mlp/.*|output", block=8)
    dense, ids = dense_params(frozen), tokens(1, 2, 6)
    replaced = {path for path, leaf in flatten_dict(frozen).items() if isinstance(leaf, record)}
    assert replaced == {path for path in flatten_dict(params) if path[-1] == "kernel"} and len(replaced) == 8
    assert frozen["embedding"] is params["embedding"]
    assert not np.allclose(dense["layers"]["mlp"]["up"]["kernel"], params["layers"]["mlp"]["up"]["kernel"], atol=1e-4)
    mask = jnp.ones(ids.shape, bool)
    hidden = [lm.logits(p, lm.forward(p, ids, mask)) for p in (frozen, dense)]
    np.testing.assert_allclose(*hidden, atol=1e-5)
    prefixes = [lm.prefill(p, ids, mask) for p in (frozen, dense)]
    caches = [lm.init_cache(prefix, 4, 2) for prefix in prefixes]
    steps = [
        lm.decode(p, prefix, cache, ids[:, 0].repeat(2), 0)[0]
        for p, prefix, cache in zip((frozen, dense), prefixes, caches, strict=True)
    ]
    np.testing.assert_allclose(*steps, atol=1e-5)


def test_each_layer_has_its_own_scales(tiny, build):
    _, params = build(tiny())
    kernel = params["layers"]["attention"]["out"]["kernel"]  # [layers, heads, head_dim, width]: two input axes
    made = quantize_params(params, "nf4", block=8)["layers"]["attention"]["out"]["kernel"]
    alone = quantize_nf4(kernel[1], 2, 8)
    assert (made.packed[1] == alone.packed).all() and (made.largest[1] == alone.largest).all()
    assert made.packed.shape == (2, 16, 16) and made.largest.shape == (2, 4, 16)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"kind": "int4"}, "kind: 'int4' is none of int8, nf4"),
        ({"kind": "nf4", "block": 64}, "block: 64 must be even and divide the 16 inputs of layers/attention/key"),
        ({"kind": "nf4", "block": 3}, "block: 3 must be even"),
        ({"pattern": "attn/.*"}, "pattern: 'attn/.*' names none of layers/attention/key"),
    ],
)
def test_refusals(tiny, build, choices, message):
    with pytest.raises(UserError, match=message.replace("*", r"\*")):
        quantize_params(build(tiny())[1], **choices)
