import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.solvers import linear, pbi, smooth_tchebycheff, tchebycheff

LOSS, P, IDEAL = jnp.array([3.0, 2.0]), jnp.array([0.25, 0.75]), jnp.array([1.0, 1.0])


def test_by_hand():
    np.testing.assert_allclose(linear(LOSS, P), 0.75 + 1.5, rtol=1e-6)
    np.testing.assert_allclose(tchebycheff(LOSS, P, IDEAL), max(0.25 * 2, 0.75 * 1), rtol=1e-6)
    expected = 0.5 * np.log(np.exp(0.5 / 0.5) + np.exp(0.75 / 0.5))
    np.testing.assert_allclose(smooth_tchebycheff(LOSS, P, IDEAL, mu=0.5), expected, rtol=1e-6)


def test_pbi_by_hand():
    # p = (3, 4) / 5: f - z = (7, 1) = 5 along p and (4, -3) across it
    loss, p = jnp.array([8.0, 2.0]), jnp.array([3.0, 4.0])
    np.testing.assert_allclose(pbi(loss, p, IDEAL, theta=2.0), 5 + 2 * 5, rtol=1e-6)
    on_ray = IDEAL + 2 * p
    np.testing.assert_allclose(pbi(on_ray, p, IDEAL), 10, rtol=1e-5)
    assert np.isfinite(jax.grad(pbi)(on_ray, p, IDEAL)).all()


def test_smooth_tchebycheff_closes_in_from_above():
    hard = tchebycheff(LOSS, P, IDEAL)
    gaps = [float(smooth_tchebycheff(LOSS, P, IDEAL, mu=mu) - hard) for mu in (1.0, 0.1, 0.01)]
    assert gaps[0] > gaps[1] > gaps[2] >= 0 and gaps[2] < 1e-6
    assert gaps[0] <= np.log(2)
    with pytest.raises(ValueError, match="mu"):
        smooth_tchebycheff(LOSS, P, IDEAL, mu=0.0)


def test_only_tchebycheff_reaches_the_middle_of_a_concave_front():
    angle = jnp.linspace(0, jnp.pi / 2, 91)
    front = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)  # losses, bulging away from the ideal 0
    half, ideal = jnp.full((91, 2), 0.5), jnp.zeros((91, 2))
    assert jnp.argmin(linear(front, half)) in (0, 90)
    assert jnp.argmin(tchebycheff(front, half, ideal)) == 45
    assert jnp.argmin(pbi(front, half, ideal)) == 45
