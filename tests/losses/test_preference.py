import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.losses import dpo, simpo


def softplus(x):
    return np.log1p(np.exp(x))


def test_dpo_by_hand():
    loss = dpo(jnp.array([-3.0, -5.0]), jnp.array([-6.0, -4.0]), jnp.array([-4.0, -5.0]), jnp.array([-5.0, -4.0]))
    # margins (1) - (-1) = 2 and 0, β = .1
    np.testing.assert_allclose(loss.mean(), (softplus(-0.2) + np.log(2)) / 2, rtol=1e-6)


def test_dpo_starts_at_log_two_and_its_gradient_prefers_the_chosen():
    logp = jnp.array([-3.0])
    loss = lambda chosen, rejected: dpo(chosen, rejected, logp, logp, beta=0.4).mean()
    np.testing.assert_allclose(loss(logp, logp), np.log(2), rtol=1e-6)
    gradient = jax.grad(loss, argnums=(0, 1))(logp, logp)
    np.testing.assert_allclose(gradient, [[-0.2], [0.2]], rtol=1e-6)


def test_simpo_by_hand():
    loss = simpo(jnp.array([-4.0]), jnp.array([-9.0]), jnp.array([4]), jnp.array([3]), beta=2.0, gamma=0.5)
    np.testing.assert_allclose(loss.mean(), softplus(-(2 * (-1) - 2 * (-3) - 0.5)), rtol=1e-6)


def test_far_margins_stay_finite():
    for margin in (1e6, -1e6):
        value, gradient = jax.value_and_grad(lambda w: dpo(w, -w, 0 * w, 0 * w).mean())(jnp.array([margin]))
        assert np.isfinite(value) and np.isfinite(gradient).all()
