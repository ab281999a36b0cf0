"""Closed forms of norm, rotary positions and SwiGLU; attention against the textbook formula."""

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.models.cache import attend, causal_bias, positions
from visa_jax.models.layers import Norm, RopeScaling, geglu, layer_norm, rms_norm, rope_angles, rotate, soft_cap, swiglu


def test_rms_norm_by_hand():
    # mean(x²) = (9 + 16) / 2 = 12.5; eps 3.5 makes the root 4: 3/4 and 4/4, times the scale
    out = rms_norm(jnp.array([[3.0, 4.0]]), jnp.array([2.0, 3.0]), 3.5)
    np.testing.assert_allclose(out, [[1.5, 3.0]], rtol=1e-6)


def test_rms_norm_keeps_bfloat16_but_computes_wide():
    x = jnp.full((1, 4096), 3.0, jnp.bfloat16)  # a bfloat16 sum of 4096 nines would be far off
    out = rms_norm(x, jnp.ones(4096), 0.0)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), 1.0, rtol=1e-2)


def test_layer_norm_by_hand():
    # mean 5, deviations -2 and 2, variance 4; eps 12 makes the root 4: -1/2 and 1/2, times the scale, plus the bias
    out = layer_norm(jnp.array([[3.0, 7.0]]), jnp.array([2.0, 4.0]), jnp.array([1.0, -1.0]), 12.0)
    np.testing.assert_allclose(out, [[0.0, 1.0]], atol=1e-6)


def test_a_norm_that_adds_one_to_its_parameter():
    x = jnp.array([[3.0, 4.0]])
    norm = Norm(2, 3.5, kind="rms_plus_one")
    np.testing.assert_allclose(norm(x), [[0.75, 1.0]], rtol=1e-6)  # the parameter starts at 0
    norm.scale[...] = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(norm(x), rms_norm(x, jnp.array([2.0, 3.0]), 3.5), rtol=1e-6)


def test_soft_cap_is_a_scaled_tanh():
    np.testing.assert_allclose(soft_cap(jnp.array([0.01, 2.0, -1e9]), 2.0), [0.01, 2 * np.tanh(1), -2.0], rtol=1e-4)
    assert float(soft_cap(jnp.array(7.0), None)) == 7.0


def test_geglu_by_hand():
    # gelu(1) = (1 + tanh(sqrt(2/pi) * 1.044715)) / 2
    expected = 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * 1.044715)) * 4
    np.testing.assert_allclose(geglu(jnp.array([1.0]), jnp.array([4.0])), [expected], rtol=1e-6)


def test_rope_scaling_by_hand():
    linear = RopeScaling(kind="linear", factor=4.0)
    for scaled, plain in zip(
        rope_angles(jnp.array([[8]]), 4, 100.0, linear), rope_angles(jnp.array([[2]]), 4, 100.0), strict=True
    ):
        np.testing.assert_allclose(scaled, plain, rtol=1e-6)  # place 8 is place 2, four times slower
    # in 100 tokens these turn 8, 4, 2.5, 1 and 0.5 times: kept from 4 on, an eighth up to 1, half of each at 2.5
    turns, share = np.array([8, 4, 2.5, 1, 0.5]), np.array([1, 1, (1 + 1 / 8) / 2, 1 / 8, 1 / 8])
    llama3 = RopeScaling(kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=100)
    frequency = jnp.asarray(turns * 2 * np.pi / 100, jnp.float32)
    np.testing.assert_allclose(llama3.apply(frequency), frequency * share.astype(np.float32), rtol=1e-5)


def test_rotate_turns_pairs_by_position_times_frequency():
    # C = 4: frequencies 1 and 100^(-1/2) = 0.1; the pairs are (x0, x2) and (x1, x3); position 3
    x = jnp.array([1.0, 0.0, 0.0, 2.0]).reshape(1, 1, 1, 4)
    out = rotate(x, rope_angles(jnp.array([[3]]), 4, 100.0)).ravel()
    expected = [np.cos(3), -2 * np.sin(0.3), np.sin(3), 2 * np.cos(0.3)]
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_rotated_products_depend_on_distance_only():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def product(at_query, at_key):
        turn = [rotate(x, rope_angles(jnp.array([[at]]), 8, 100.0)) for x, at in ((query, at_query), (key, at_key))]
        return float(jnp.sum(turn[0] * turn[1]))

    assert abs(product(2, 0) - product(11, 9)) < 1e-5
    assert abs(product(2, 0) - product(3, 0)) > 1e-2


def test_swiglu_by_hand():
    # sigmoid(ln 3) = 3/4, so silu(ln 3) * 4 = 3 ln 3
    np.testing.assert_allclose(swiglu(jnp.log(jnp.array([3.0])), jnp.array([4.0])), 3 * np.log(3), rtol=1e-6)


def test_positions_count_valid_tokens():
    mask = jnp.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(positions(mask), [[0, 1, 2, 2, 2], [0, 0, 0, 1, 2], [0, 0, 0, 0, 0]])


def test_causal_bias_lets_padding_see_itself_only():
    seen = causal_bias(jnp.array([[False, True, True]]))[0] == 0
    np.testing.assert_array_equal(seen, [[1, 0, 0], [0, 1, 0], [0, 1, 1]])
    both_ways = causal_bias(jnp.array([[False, True, True]]), causal=False)[0] == 0
    np.testing.assert_array_equal(both_ways, [[1, 1, 1], [0, 1, 1], [0, 1, 1]])


def softmax_attention(query, key, value, seen):
    """numpy, one row: query [T, Q, C], key and value [S, H, C], seen [T, S]."""
    heads, size = query.shape[1:]
    out = np.zeros_like(query)
    for q in range(heads):
        h = q // (heads // key.shape[1])
        score = np.where(seen, query[:, q] @ key[:, h].T / np.sqrt(size), -np.inf)
        weight = np.exp(score - score.max(-1, keepdims=True))
        out[:, q] = weight / weight.sum(-1, keepdims=True) @ value[:, h]
    return out


def test_attend_with_shared_prefix_is_one_softmax_over_both():
    n, group, prompt, length, heads, kv, size = 2, 3, 5, 4, 4, 2, 6
    draw = np.random.default_rng(0).normal
    query = draw(size=(n * group, length, heads, size)) * 3
    own_key, own_value = draw(size=(2, n * group, length, kv, size))
    pre_key, pre_value = draw(size=(2, n, prompt, kv, size))
    valid = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], bool)
    own_bias = causal_bias(jnp.ones((n * group, length), bool))
    first = [jnp.asarray(x, jnp.float32).swapaxes(1, 2) for x in (own_key, own_value, pre_key, pre_value)]
    prefix = (*first[2:], jnp.where(jnp.asarray(valid), 0.0, -1e30))
    out = attend(jnp.asarray(query, jnp.float32), *first[:2], own_bias, prefix)
    for row in range(n * group):
        prompt_of = row // group
        seen = np.concatenate([np.tile(valid[prompt_of], (length, 1)), np.tri(length, dtype=bool)], axis=1)
        key = np.concatenate([pre_key[prompt_of], own_key[row]])
        value = np.concatenate([pre_value[prompt_of], own_value[row]])
        np.testing.assert_allclose(out[row], softmax_attention(query[row], key, value, seen), atol=2e-5)
