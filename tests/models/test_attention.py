"""One switch, equal numbers: each kernel against XLA's attention, and what is chosen where.

Tolerances, of the largest entry: 1e-5 in float32, 1e-2 in bfloat16 against float32 of the same numbers (a 16-bit kernel
rounds its weights, too; XLA's own gradient in bfloat16 is off by up to .06 on a CPU with jax 0.11.2: no truth).
"""

import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies

from visa_jax.config import FieldError
from visa_jax.models import make_decoder
from visa_jax.models.attention import Choice, choose, cudnn
from visa_jax.models.cache import attend, causal_bias, heads_first, positions, same_segment, segments, windowed
from visa_jax.models.layers import MASKED
from visa_jax.models.splash import GroupMask, splash
from visa_jax.parallel import MeshConfig, make_mesh, on_mesh

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}
L, T, HEADS, KV, SIZE = 130, 140, 4, 2, 16  # two prompts of L, a group of two each; no multiple of a block


@pytest.fixture(scope="module")
def rows():
    """Two prompts, padded right and left, and four completions, padded right, one of them of padding alone."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    draw = lambda *shape: jax.random.normal(next(keys), shape)
    here = jnp.arange(L)[None]
    return types.SimpleNamespace(
        own=(draw(4, T, HEADS, SIZE), draw(4, T, KV, SIZE), draw(4, T, KV, SIZE)),
        shared=(draw(2, KV, L, SIZE), draw(2, KV, L, SIZE)),
        mask_BT=jnp.arange(T)[None] < jnp.asarray([[T], [3], [100], [0]]),
        mask_NL=jnp.concatenate([here[:, :] < 90, here >= 40]),
        both_sides_BT=(jnp.arange(T)[None] >= jnp.asarray([[0], [5], [40], [0]]))
        & (jnp.arange(T)[None] < jnp.asarray([[T], [T], [100], [0]])),
    )


def reference(query, key, value, *args, **choices):
    return attend(query, heads_first(key), heads_first(value), *args, **choices)


def agree(left_fn, right_fn, arrays, mask_BT, dtype="float32"):
    """Both functions give valid tokens the same, and the same gradient, within TOLERANCE of its largest entry.

    The right one computes in ``dtype``, the left one in float32 from the same rounded arrays.
    """
    keep = mask_BT[:, :, None, None]
    rounded = jax.tree.map(lambda x: x.astype(dtype), arrays)

    def both(fn, dtype):
        arrays = jax.tree.map(lambda x: x.astype(dtype), rounded)

        def total(arrays):
            out = fn(*arrays)
            assert out.dtype == dtype
            out = jnp.where(keep, out, 0).astype(jnp.float32)
            return jnp.sum(out**3), out

        (_, out), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(arrays)
        return [np.asarray(x, np.float32) for x in jax.tree.leaves((out, gradient))]

    for left, right in zip(both(left_fn, "float32"), both(right_fn, dtype), strict=True):
        assert np.abs(left).max() > 0.01 and np.isfinite(right).all()
        np.testing.assert_allclose(right, left, rtol=0, atol=TOLERANCE[dtype] * np.abs(left).max())


@pytest.mark.parametrize(
    "choices",
    [
        dict(causal=True),
        dict(causal=True, dtype="bfloat16"),
        dict(causal=True, window=20),
        dict(causal=True, cap=2.0),
        dict(causal=False),
        dict(causal=False, cut=True),
    ],
    ids=str,
)
def test_splash_is_xla_on_own_tokens(rows, choices):
    """Padding on both sides, grouped heads; a window, a cap, both directions, segments of 30 tokens."""
    mask, causal, window, cap = rows.both_sides_BT, choices["causal"], choices.get("window"), choices.get("cap")
    bias, segment = causal_bias(mask, causal), mask.astype(jnp.int32)
    if window:
        bias = windowed(bias, positions(mask), positions(mask), window)
    if "cut" in choices:
        closes = jnp.broadcast_to(jnp.arange(T)[None] % 30 == 29, mask.shape)
        bias, segment = jnp.where(same_segment(closes), bias, MASKED), jnp.where(mask, segments(closes) + 1, 0)
    agree(
        lambda *arrays: reference(*arrays, bias, cap=cap),
        lambda *arrays: splash(*arrays, segment, causal=causal, window=window, cap=cap, interpret=True),
        rows.own,
        mask,
        choices.get("dtype", "float32"),
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_splash_is_xla_behind_a_shared_prompt(rows, dtype):
    """The gradient reaches the prompt's keys and values, once per group."""
    bias_BTS, bias_NL = causal_bias(rows.mask_BT), jnp.where(rows.mask_NL, 0.0, MASKED)
    agree(
        lambda q, k, v, sk, sv: reference(q, k, v, bias_BTS, (sk, sv, bias_NL)),
        lambda q, k, v, sk, sv: splash(
            q, k, v, rows.mask_BT.astype(jnp.int32), (sk, sv, bias_NL), causal=True, interpret=True
        ),
        (*rows.own, *rows.shared),
        rows.mask_BT,
        dtype,
    )


def test_the_mask_of_a_group_by_hand():
    """Two rows of two tokens behind two of the prompt; then one row of three, a window of two; then both ways."""
    behind = GroupMask(2, 2, 2, causal=True, window=None)
    assert behind.shape == (4, 6)
    assert behind[:, :].astype(int).tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert (behind[2:4, 1:5] == behind[:, :][2:4, 1:5]).all()
    assert GroupMask(1, 3, 0, True, 2)[:, :].astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert GroupMask(1, 2, 0, False, None)[:, :].all()


@pytest.mark.parametrize(
    "choices",
    [
        {},
        dict(window=9, local_layers=(True, False), attention_cap=2.0),
        dict(window=9, scan_layers=False),
        dict(causal=False, segment_end=3),
    ],
    ids=["plain", "two kinds", "local", "reader"],
)
def test_a_decoder_through_splash_is_one_through_xla(tiny, build, tokens, choices, monkeypatch):
    """forward of windows and segments, extend and prefill of a plain decoder; hidden states of valid tokens."""
    interpreted = lambda *args, **kwargs: splash(*args, **kwargs, interpret=True)
    monkeypatch.setattr("visa_jax.models.splash.splash", interpreted)
    ids, completion = tokens(1, 2, 12).at[:, 4].set(3), tokens(2, 4, 10)
    mask, completion_mask = jnp.arange(12)[None] < jnp.asarray([[12], [7]]), jnp.ones((4, 10), bool)
    params = build(tiny(**choices))[1]

    def states(attention, platform):
        lm, _ = make_decoder(tiny(attention=attention, **choices), platform)
        if choices:
            return jnp.where(mask[:, :, None], jax.jit(lm.forward)(params, ids, mask), 0)
        hidden, last = jax.jit(lm.extend)(params, ids, mask, None, completion, completion_mask)
        np.testing.assert_allclose(last, jax.jit(lm.prefill)(params, ids, mask).last_hidden_ND, atol=2e-5)
        return hidden

    np.testing.assert_allclose(states("splash", "tpu"), states("xla", "cpu"), atol=2e-5)


def test_a_kernel_on_a_mesh_has_each_device_its_rows_and_heads(tiny, build, tokens, monkeypatch):
    """data 2 x tensor 2: the kernel is called with half of the rows and half of the heads, and numbers stay."""
    called = []

    def interpreted(query, *args, **choices):
        called.append(query.shape)
        return splash(query, *args, **choices, interpret=True)

    monkeypatch.setattr("visa_jax.models.splash.splash", interpreted)
    ids, completion, mask = tokens(1, 2, 12), tokens(2, 4, 10), jnp.ones((2, 12), bool)
    params = build(tiny())[1]

    def states(attention, platform, mesh):
        lm, _ = make_decoder(tiny(attention=attention), platform)

        def both(params):
            return lm.extend(params, ids, mask, None, completion, jnp.ones((4, 10), bool))[0]

        return jax.jit(on_mesh(both, mesh))(params)

    on_four = states("splash", "tpu", make_mesh(MeshConfig(data=2, tensor=2)))
    np.testing.assert_allclose(on_four, states("xla", "cpu", None), atol=2e-5)
    config = tiny()
    assert set(called) == {(rows, length, config.heads // 2, config.head_dim) for rows, length in ((1, 12), (2, 10))}


@pytest.mark.parametrize("window", [None, 20])
def test_what_cudnn_is_asked_for_is_the_same_attention(rows, monkeypatch, window):
    """JAX's XLA form of the very call that goes to cuDNN, on own tokens and behind a shared prompt."""
    ask = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *args, **choices: ask(*args, **{**choices, "implementation": "xla"})
    )
    bias, shared = causal_bias(rows.mask_BT), jnp.where(rows.mask_NL, 0.0, MASKED)
    if window:
        place, prompt = positions(rows.mask_BT), jnp.repeat(positions(rows.mask_NL), 2, axis=0)
        length_B1 = jnp.repeat(rows.mask_NL.sum(1), 2)[:, None]
        bias = windowed(bias, place, place, window)
        shared = jnp.broadcast_to(jnp.repeat(shared, 2, axis=0)[:, None], (4, T, L))
        shared = windowed(shared, length_B1 + place, prompt, window)
    agree(
        lambda *arrays: reference(*arrays, bias),
        lambda *arrays: cudnn(*arrays, bias, causal=True),
        rows.own,
        rows.mask_BT,
    )
    agree(
        lambda q, k, v, sk, sv: reference(q, k, v, bias, (sk, sv, shared)),
        lambda q, k, v, sk, sv: cudnn(q, k, v, bias, (sk, sv, shared), causal=True),
        (*rows.own, *rows.shared),
        rows.mask_BT,
    )


def program(tiny, platform, dtype="bfloat16", **choices):
    """``(gradient of extend, abstract arguments)`` of a decoder through the platform's kernel."""
    lm, init_fn = make_decoder(tiny(attention="auto", dtype=dtype, **choices), platform)

    def total(params, prompt, prompt_mask, completion, mask):
        return jnp.sum(lm.extend(params, prompt, prompt_mask, None, completion, mask)[0].astype(jnp.float32))

    of = jax.ShapeDtypeStruct
    rows = [of((n, length), dtype) for n, length in ((2, 256), (4, 128)) for dtype in (jnp.int32, bool)]
    return jax.grad(total), (jax.eval_shape(init_fn, jax.random.key(0)), *rows)


def test_cudnn_stands_in_the_program_for_a_gpu(tiny, monkeypatch):
    """Lowered for CUDA without a GPU: the flash kernels, forward and backward, once for prompt and once behind it."""
    from jax._src.cudnn import fused_attention_stablehlo

    version = types.SimpleNamespace(cudnn_get_version=lambda: 91100)  # where the CUDA plugin is not installed
    monkeypatch.setattr(fused_attention_stablehlo, "cuda_versions", version)
    gradient, arguments = program(tiny, "gpu")
    text = jax.jit(gradient).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @__cudnn$fmhaScaleBiasSoftmax(") == 2
    assert text.count("custom_call @__cudnn$fmhaScaleBiasSoftmaxBackward(") == 2
    assert text.count("mask_type\\22: \\22CAUSAL") == 2  # of the prompt, forward and backward: half of the blocks


def test_splash_compiles_for_a_tpu(tiny, monkeypatch):
    """Forward and backward, compiled ahead of time by libtpu for a slice that is not there."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (extra tpu)")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4").devices[0]
    place = jax.sharding.SingleDeviceSharding(device)
    gradient, arguments = program(tiny, "tpu")
    compiled = jax.jit(gradient, in_shardings=place, out_shardings=place).lower(*arguments).compile()
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 6  # forward, dq and dkv, twice


@pytest.mark.gpu
def test_cudnn_is_xla_on_a_gpu(rows):
    if jax.default_backend() != "gpu":
        pytest.skip(f"needs a GPU, JAX runs on {jax.default_backend()}")
    bias, bias_NL = causal_bias(rows.both_sides_BT), jnp.where(rows.mask_NL, 0.0, MASKED)
    choices = dict(mask_BT=rows.both_sides_BT, dtype="bfloat16")
    agree(
        lambda *arrays: reference(*arrays, bias), lambda *arrays: cudnn(*arrays, bias, causal=True), rows.own, **choices
    )
    agree(
        lambda q, k, v, sk, sv: reference(q, k, v, bias, (sk, sv, bias_NL)),
        lambda q, k, v, sk, sv: cudnn(q, k, v, bias, (sk, sv, bias_NL), causal=True),
        (*rows.own, *rows.shared),
        **choices,
    )


@pytest.mark.tpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_splash_is_xla_on_a_tpu(rows, dtype):
    if jax.default_backend() != "tpu":
        pytest.skip(f"needs a TPU, JAX runs on {jax.default_backend()}")
    bias, bias_NL = causal_bias(rows.mask_BT), jnp.where(rows.mask_NL, 0.0, MASKED)
    segment = rows.mask_BT.astype(jnp.int32)
    with jax.default_matmul_precision("highest"):
        agree(
            lambda q, k, v, sk, sv: reference(q, k, v, bias, (sk, sv, bias_NL)),
            lambda q, k, v, sk, sv: splash(q, k, v, segment, (sk, sv, bias_NL), causal=True),
            (*rows.own, *rows.shared),
            rows.mask_BT,
            dtype,
        )


@pytest.mark.parametrize(
    ("platform", "choices", "sizes", "expected"),
    [
        ("cpu", {}, (256, 0), Choice("xla", "cpu has no kernel")),
        ("tpu", {}, (256, 0), Choice("splash")),
        ("tpu", {}, (127, 512), Choice("xla", "127 tokens are less than a block of 128")),
        ("tpu", dict(window=64), (256, 0), Choice("splash")),
        ("tpu", dict(window=64), (256, 8), Choice("xla", "a window of 64 tokens ends within a shared prompt")),
        ("tpu", dict(window=264), (256, 8), Choice("splash")),
        ("tpu", dict(dtype="float16"), (256, 0), Choice("xla", "dtype float16 is unknown to a TPU")),
        ("gpu", dict(dtype="bfloat16"), (256, 8), Choice("cudnn")),
        ("gpu", dict(dtype="bfloat16", window=64), (256, 8), Choice("cudnn")),
        ("gpu", {}, (256, 0), Choice("xla", "dtype float32 is not 16 bits wide")),
        ("gpu", dict(dtype="bfloat16", attention_cap=5.0), (256, 0), Choice("xla", "attention_cap is set")),
        ("gpu", dict(dtype="bfloat16"), (255, 0), Choice("xla", "a length of 255 is odd")),
        ("gpu", dict(dtype="bfloat16"), (256, 7), Choice("xla", "a length of 7 is odd")),
        (
            "gpu",
            dict(dtype="bfloat16", head_dim=12),
            (256, 0),
            Choice("xla", "head_dim 12 is no multiple of 8 up to 128"),
        ),
        ("tpu", dict(attention="xla"), (256, 0), Choice("xla", "the config says so")),
        ("tpu", dict(attention="splash"), (5, 0), Choice("splash")),
    ],
    ids=str,
)
def test_what_is_chosen_and_why(tiny, platform, choices, sizes, expected):
    assert choose(tiny(**choices), platform, *sizes) == expected


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (dict(attention="flash"), "attention: 'flash' is none of auto, xla, cudnn, splash"),
        (dict(attention="cudnn"), "attention: cudnn is impossible here: dtype float32 is not 16 bits wide"),
        (dict(attention="splash"), "attention: splash is impossible here: it runs on tpu, not on cpu"),
    ],
)
def test_impossible_choices_are_refused_in_one_line(tiny, choices, message):
    with pytest.raises(FieldError) as error:
        make_decoder(tiny(**choices), "cpu")
    assert str(error.value) == message


def test_a_call_that_a_named_kernel_can_not_do_is_refused(tiny):
    with pytest.raises(FieldError, match="attention: cudnn is impossible here: a length of 255 is odd"):
        choose(tiny(attention="cudnn", dtype="bfloat16"), "gpu", 255)
