import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.estimators import kl_estimate


def test_three_kinds_by_hand():
    logp, ref = jnp.array([[-1.0]]), jnp.array([[-0.5]])  # u = 0.5
    for kind, expected in {"k1": -0.5, "k2": 0.125, "k3": np.exp(0.5) - 1.5}.items():
        np.testing.assert_allclose(kl_estimate(logp, ref, kind), [[expected]], rtol=1e-6)


def test_small_differences_keep_their_digits():
    """exp(u) - u - 1 rounds to 0 or below in float32; the estimate must stay near u²/2."""
    u = 2.0**-10
    k3 = kl_estimate(jnp.zeros(1), jnp.full(1, u))
    assert k3[0] > 0
    np.testing.assert_allclose(k3, u**2 / 2, rtol=2e-3)


@pytest.mark.parametrize("kind, unbiased", [("k1", True), ("k3", True), ("k2", False)])
def test_mean_over_the_policy(kind, unbiased):
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])
    estimate = kl_estimate(jnp.log(jnp.array(p)), jnp.log(jnp.array(q)), kind)
    exact = np.sum(p * np.log(p / q))
    assert np.isclose(np.sum(p * np.asarray(estimate)), exact, rtol=1e-5) == unbiased


def test_gradient_of_k1_has_mean_zero_and_that_of_k2_is_right():
    logits, q = jnp.array([0.5, -0.3, 0.1]), jnp.log(jnp.array([0.2, 0.3, 0.5]))
    p = jax.lax.stop_gradient(jax.nn.softmax(logits))
    gradient = lambda kind: jax.grad(lambda x: jnp.sum(p * kl_estimate(jax.nn.log_softmax(x), q, kind)))(logits)
    exact = jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) * (jax.nn.log_softmax(x) - q)))(logits)
    np.testing.assert_allclose(gradient("k1"), 0, atol=1e-6)
    np.testing.assert_allclose(gradient("k2"), exact, rtol=1e-5)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind"):
        kl_estimate(jnp.zeros(1), jnp.zeros(1), "k4")


def test_agrees_with_peers(shared, x64):
    known = json.loads((shared / "oracles.json").read_text())
    logp, ref, mask = (np.array(known["loss_inputs"][name], float) for name in ("logp", "logp_ref", "mask"))
    for kind, expected in known["kl_token_mean"].items():
        mean = (np.asarray(kl_estimate(logp, ref, kind)) * mask).sum() / mask.sum()
        np.testing.assert_allclose(mean, expected, atol=2e-6, rtol=2e-6)
