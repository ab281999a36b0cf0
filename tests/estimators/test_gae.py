import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.estimators import gae, whiten

ALL = jnp.ones((1, 3), bool)


def test_three_tokens_by_hand():
    reward, critic = jnp.array([[0.0, 0.0, 1.0]]), jnp.array([[0.5, 0.25, 0.75]])
    adv, returns = gae(reward, critic, ALL, gamma=0.5, lam=0.5)
    delta = [0.5 * 0.25 - 0.5, 0.5 * 0.75 - 0.25, 1 - 0.75]
    a2 = delta[2]
    a1 = delta[1] + 0.25 * a2
    a0 = delta[0] + 0.25 * a1
    np.testing.assert_allclose(adv, [[a0, a1, a2]], rtol=1e-6)
    np.testing.assert_allclose(returns, [[a0 + 0.5, a1 + 0.25, a2 + 0.75]], rtol=1e-6)


def test_limits_of_lambda():
    reward, critic = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[0.3, -0.2, 0.9]])
    monte_carlo = gae(reward, critic, ALL, gamma=1.0, lam=1.0)[1]
    np.testing.assert_allclose(monte_carlo, [[6, 5, 3]], rtol=1e-6)
    one_step = gae(reward, critic, ALL, gamma=1.0, lam=0.0)[1]
    np.testing.assert_allclose(one_step, [[1 - 0.2, 2 + 0.9, 3]], rtol=1e-6)


@pytest.mark.parametrize("masked", [[1], [0], [3], [1, 2], [0, 3]])
def test_masked_tokens_are_as_if_cut_out(masked):
    rng = np.random.default_rng(0)
    reward, critic = rng.normal(size=(2, 1, 4)).astype(np.float32)
    mask = np.ones((1, 4), bool)
    mask[0, masked] = False
    short = gae(*(jnp.array(np.delete(x, masked, 1)) for x in (reward, critic, mask)), gamma=0.9, lam=0.8)
    reward[~mask], critic[~mask] = np.nan, np.inf
    for full, cut in zip(gae(*map(jnp.array, (reward, critic, mask)), gamma=0.9, lam=0.8), short, strict=True):
        np.testing.assert_allclose(full[mask], cut[0], rtol=1e-6)
        np.testing.assert_array_equal(full[~mask], 0)


def test_heads_are_vmapped():
    rng = np.random.default_rng(1)
    reward, critic = jnp.array(rng.normal(size=(2, 3, 5, 2)), jnp.float32)
    mask = jnp.array(rng.random((3, 5)) < 0.8)
    heads = jax.vmap(lambda r, v: gae(r, v, mask, gamma=1.0, lam=0.95), in_axes=2, out_axes=2)(reward, critic)
    one = gae(reward[:, :, 1], critic[:, :, 1], mask, gamma=1.0, lam=0.95)
    for of_all, alone in zip(heads, one, strict=True):
        np.testing.assert_allclose(of_all[:, :, 1], alone, rtol=1e-6)


def test_whitening_by_hand():
    adv = jnp.array([[1.0, 3.0, 99.0], [5.0, jnp.nan, 7.0]])
    mask = jnp.array([[True, True, False], [True, False, True]])
    # mean 4, variance (9 + 1 + 1 + 9) / 3
    expected = np.array([[-3, -1, 0], [1, 0, 3]]) / np.sqrt(20 / 3 + 1e-8)
    np.testing.assert_allclose(whiten(adv, mask), expected, rtol=1e-6)


def test_whitening_of_equal_one_or_no_tokens_is_zero():
    adv = jnp.full((1, 3), 7.0)
    for mask in (ALL, jnp.array([[True, False, False]]), ~ALL):
        np.testing.assert_array_equal(whiten(adv, mask), 0)
        assert np.isfinite(jax.grad(lambda x, m=mask: jnp.sum(whiten(x, m) ** 2))(adv)).all()


def test_agrees_with_peers(shared, x64):
    known = json.loads((shared / "oracles.json").read_text())
    mask, case = np.array(known["loss_inputs"]["mask"], bool), known["gae"]
    reward = np.zeros(mask.shape)
    reward[np.arange(len(mask)), mask.sum(1) - 1] = case["last_token_reward"]
    critic = np.array(case["critic"])
    returns = gae(reward, critic, jnp.array(mask), gamma=case["gamma"], lam=case["lam"])[1]
    np.testing.assert_allclose(returns, case["returns"], atol=2e-6, rtol=2e-6)
