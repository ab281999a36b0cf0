"""The cache of keys and values in eight bits: what rounding may change, and what it saves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from visa_jax.config import FieldError
from visa_jax.models import make_decoder
from visa_jax.models.cache import attend, init_cache
from visa_jax.models.quantize import Int8, round_to_int8
from visa_jax.rollout import generate
from visa_jax.types import Prefix, PromptBatch


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batch(ids, mask=None):
    mask = jnp.ones(ids.shape, bool) if mask is None else mask
    return PromptBatch(
        prompt_NL=ids,
        prompt_mask_NL=mask,
        condition_NM=jnp.zeros((len(ids), 1)),
        context_NS=ids,
        context_mask_NS=mask,
    )


def test_rounding_errs_by_half_a_step_of_each_vector_at_most():
    x = normal(0, 3, 5, 8) * np.array([1e-3, 1.0, 1e3, 7.0, 0.0], np.float32)[None, :, None]
    rounded = round_to_int8(jnp.asarray(x), (-1,))
    assert (rounded.level.dtype, rounded.level.shape, rounded.step.shape) == (jnp.int8, (3, 5, 8), (3, 5, 1))
    np.testing.assert_allclose(rounded.step, np.abs(x).max(-1, keepdims=True) / 127, rtol=1e-6)
    assert (np.abs(rounded.dense() - x) <= np.abs(x).max(-1, keepdims=True) / 254 * (1 + 1e-4)).all()


@pytest.mark.parametrize("tokens", [1, 3])
def test_attention_over_rounded_keys_errs_within_its_bound(tokens):
    """Scores err by d <= |q|_1 max(step_k) / 2 sqrt(C), so weights by a factor in [e^-2d, e^2d] and outputs by at most
    max(step_v) / 2 + (e^2d - 1) max |v|. Two rows behind each of two prompts, two query heads a key head."""
    query, (own, shared) = normal(1, 4, tokens, 4, 8), ((normal(2, 2, 4, 2, 6, 8)), normal(3, 2, 2, 2, 5, 8))
    bias_BTS, bias_NL = np.zeros((1, 1, 6), np.float32), np.zeros((2, 5), np.float32)
    exact = attend(query, *own, bias_BTS, (*shared, bias_NL))
    small = [tuple(round_to_int8(jnp.asarray(x), (-1,)) for x in side) for side in (own, shared)]
    rounded = attend(jnp.asarray(query), *small[0], bias_BTS, (*small[1], bias_NL))
    step = [max(float(side[i].step.max()) for side in small) for i in (0, 1)]
    d = np.abs(query).sum(-1).max() * step[0] / 2 / np.sqrt(8)
    largest = max(np.abs(own[1]).max(), np.abs(shared[1]).max())
    error = float(jnp.abs(rounded - exact).max())
    assert 1e-4 < error <= step[1] / 2 + (np.exp(2 * d) - 1) * largest
    dense = [tuple(x.dense() for x in side) for side in small]  # it is the attention over what was kept
    np.testing.assert_allclose(
        rounded, attend(jnp.asarray(query), *dense[0], bias_BTS, (*dense[1], bias_NL)), atol=1e-6
    )


def test_a_rounded_cache_decodes_near_the_float_one(tiny, build, tokens):
    """The same completion fed to both: logits stay within a hundredth of their spread, and are not equal."""
    lm, params = build(tiny())
    prompt, completion = tokens(7, 2, 5), tokens(8, 4, 6)
    prefix = lm.prefill(params, prompt, jnp.arange(5)[None] < jnp.asarray([[5], [2]]))
    logits = {}
    for dtype in ("auto", "int8"):
        cache, steps = lm.init_cache(prefix, 4, 6, dtype), []
        for step in range(6):
            hidden, cache = lm.decode(params, prefix, cache, completion[:, step], step)
            steps.append(lm.logits(params, hidden))
        logits[dtype] = jnp.stack(steps)
        (key, _, _), (own, _) = cache[1]
        assert isinstance(key, Int8) == isinstance(own, Int8) == (dtype == "int8")
    error = float(jnp.abs(logits["int8"] - logits["auto"]).max())
    assert 0 < error < 0.01 * float(jnp.ptp(logits["auto"]))


@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_rows_at_steps_of_their_own_decode_as_rows_together(tiny, build, tokens, dtype):
    """Row 0 one step behind row 1, through a window, too: the hidden states are those of a common step."""
    for config in (tiny(), tiny(window=3, local_layers=(True, False))):
        lm, params = build(config)
        prompt, completion = tokens(7, 2, 5), np.asarray(tokens(8, 2, 5))
        prefix = lm.prefill(params, prompt, jnp.arange(5)[None] < jnp.asarray([[5], [2]]))
        together, expected = lm.init_cache(prefix, 2, 5, dtype), []
        for step in range(5):
            hidden, together = lm.decode(params, prefix, together, completion[:, step], step)
            expected.append(hidden)
        apart = lm.init_cache(prefix, 2, 5, dtype)
        for step in range(6):
            steps = np.asarray([max(step - 1, 0), min(step, 4)])  # row 0 feeds token 0 twice, row 1 its last one
            hidden, apart = lm.decode(params, prefix, apart, completion[[0, 1], steps], jnp.asarray(steps))
            for row in (0, 1):
                np.testing.assert_allclose(hidden[row], expected[steps[row]][row], atol=1e-5)


def test_bytes_of_the_cache_are_a_quarter_and_the_steps():
    """C = 64: (64 + 4) / 256 = .266 of float32, the masks of the prompt apart."""
    prefix = Prefix(
        key_XNLHC=jnp.ones((2, 3, 7, 2, 64)),
        value_XNLHC=jnp.ones((2, 3, 7, 2, 64)),
        mask_NL=jnp.ones((3, 7), bool),
        last_hidden_ND=jnp.ones((3, 8)),
    )

    def size(dtype):
        cache = init_cache(prefix, 6, 11, dtype)
        held = [(shared[:2], own) for shared, own in cache]
        return sum(leaf.nbytes for leaf in jax.tree.leaves(held))

    vectors = 2 * 2 * (3 * 7 + 6 * 11) * 2  # layers, keys and values, positions, heads
    assert (size("auto"), size("int8")) == (vectors * 64 * 4, vectors * (64 + 4))


def test_an_unknown_dtype_is_refused_by_name():
    with pytest.raises(FieldError, match="kv_cache_dtype: 'fp8' is none of auto, int8"):
        init_cache(None, 1, 1, "fp8")


def test_greedy_texts_of_a_trained_model_stay(tiny):
    """Each token is the sum of the two before it, modulo 7: learned in 400 steps, then continued from all 49 pairs."""
    lm, init_fn = make_decoder(tiny(vocab_size=7, width=32, mlp_width=64, scan_layers=False))
    pairs = np.stack(np.meshgrid(np.arange(7), np.arange(7)), -1).reshape(-1, 2)
    texts = [pairs[:, 0], pairs[:, 1]]
    for _ in range(14):
        texts.append((texts[-1] + texts[-2]) % 7)
    ids = jnp.asarray(np.stack(texts, axis=1))
    optimizer = optax.adam(5e-3)

    def loss_fn(params):
        logits = lm.logits(params, lm.forward(params, ids[:, :-1], jnp.ones((49, 15), bool)))
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:])[:, 1:].mean()

    @jax.jit
    def train(params):
        def step(carry, _):
            loss, gradient = jax.value_and_grad(loss_fn)(carry[0])
            updates, opt_state = optimizer.update(gradient, carry[1])
            return (optax.apply_updates(carry[0], updates), opt_state), loss

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=400)

    (params, _), loss = train(jax.jit(init_fn)(jax.random.key(0)))
    assert loss[-1] < 0.05
    settings = dict(group_size=1, max_new_tokens=14, temperature=0.0, end_id=-1, pad_id=0)
    text = {
        dtype: jax.jit(functools.partial(generate, lm, kv_cache_dtype=dtype, **settings))(
            params, batch(ids[:, :2]), jax.random.key(0)
        ).completion_BT
        for dtype in ("auto", "int8")
    }
    assert (text["auto"] == ids[:, 2:]).mean() > 0.95
    assert (text["int8"] == text["auto"]).all(axis=1).mean() > 0.9
