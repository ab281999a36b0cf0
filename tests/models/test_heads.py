"""Pooling by hand; a scorer reads valid tokens only; a critic starts at zero and is linear."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.config import UserError
from visa_jax.models import make_critic, make_decoder, make_scorer
from visa_jax.models.heads import pool_tokens


def test_pooling_by_hand():
    hidden = jnp.array([[[1.0], [3.0], [8.0]], [[5.0], [6.0], [7.0]]])
    mask = jnp.array([[1, 1, 0], [0, 0, 1]], bool)
    np.testing.assert_allclose(pool_tokens(hidden, mask, "mean"), [[2.0], [7.0]])
    np.testing.assert_allclose(pool_tokens(hidden, mask, "last"), [[3.0], [7.0]])
    np.testing.assert_allclose(pool_tokens(hidden, mask, "token"), hidden)


def test_mean_of_nothing_is_finite():
    np.testing.assert_array_equal(pool_tokens(jnp.ones((1, 2, 3)), jnp.zeros((1, 2), bool), "mean"), np.zeros((1, 3)))


@pytest.mark.parametrize("pool, causal", [("mean", False), ("last", True), ("token", True)])
def test_scores_ignore_padding(tiny, tokens, pool, causal):
    score_fn, init_fn = make_scorer(tiny(causal=causal), 3, pool)
    params, ids = jax.jit(init_fn)(jax.random.key(0)), tokens(1, 2, 5)
    score_fn = jax.jit(score_fn)
    short = score_fn(params, ids, jnp.ones((2, 5), bool))
    padded = score_fn(
        params, jnp.pad(ids, ((0, 0), (0, 3)), constant_values=4), jnp.arange(8)[None] < jnp.full((2, 1), 5)
    )
    np.testing.assert_allclose(padded[:, :5] if pool == "token" else padded, short, atol=1e-5)
    assert short.shape == ((2, 5, 3) if pool == "token" else (2, 3))


def test_scorer_takes_the_parameters_of_a_trained_decoder(tiny, tokens):
    config = tiny()
    lm, init_decoder = make_decoder(config)
    score_fn, _ = make_scorer(config, 16, "last")
    base, ids, mask = jax.jit(init_decoder)(jax.random.key(5)), tokens(1, 2, 5), jnp.ones((2, 5), bool)
    params = {"decoder": base, "head": {"kernel": jnp.eye(16), "bias": jnp.ones(16)}}
    np.testing.assert_allclose(
        jax.jit(score_fn)(params, ids, mask), jax.jit(lm.forward)(base, ids, mask)[:, -1] + 1, atol=1e-5
    )


def test_critic_is_zero_at_first_and_linear_after():
    critic_fn, init_fn = make_critic(2, 3)
    state = jnp.array([[[1.0, 2.0]]])
    np.testing.assert_array_equal(critic_fn(init_fn(jax.random.key(0)), state), np.zeros((1, 1, 3)))
    params = {"kernel": jnp.array([[1.0, 0, 0], [0, 1, 10]]), "bias": jnp.array([0.0, 0, 5])}
    np.testing.assert_allclose(critic_fn(params, state), [[[1, 2, 25]]])


def test_unknown_pool_is_refused(tiny):
    with pytest.raises(UserError, match="pool"):
        make_scorer(tiny(), 1, "max")
