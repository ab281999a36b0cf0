import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.estimators import QuantileNormalizer, adapt_kl_coefficient, fit_quantiles, scale_rewards


def test_ends_are_the_quantiles_and_missing_rewards_are_left_out():
    samples = jnp.stack([jnp.arange(101.0), jnp.where(jnp.arange(101) < 50, jnp.nan, 7.0)], axis=1)
    normalizer = fit_quantiles(samples)
    np.testing.assert_allclose(normalizer.low_K, [5, 7], rtol=1e-6)
    np.testing.assert_allclose(normalizer.high_K, [95, 7], rtol=1e-6)


def test_scaling_is_linear_between_the_ends_and_clipped_beyond():
    normalizer = QuantileNormalizer(low_K=jnp.array([-10.0, 0.0]), high_K=jnp.array([10.0, 4.0]))
    rewards = jnp.array([[-10.0, 4.0], [0.0, 5.0], [-99.0, 99.0], [jnp.nan, 2.0]])
    expected = [[0, 1], [0.5, 1.25], [0, 1.5], [np.nan, 0.5]]
    np.testing.assert_allclose(scale_rewards(normalizer, rewards), expected, rtol=1e-6)


def test_a_reward_that_never_varied_scales_to_zero():
    normalizer = fit_quantiles(jnp.full((9, 1), 3.0))
    np.testing.assert_array_equal(scale_rewards(normalizer, jnp.array([[3.0], [50.0]])), 0)


def test_affine_change_of_a_reward_model_changes_nothing():
    rewards = jnp.array(np.random.default_rng(0).normal(size=(200, 2)), jnp.float32)
    moved = rewards * jnp.array([3.0, 0.1])[None, :] + 5
    scaled = [scale_rewards(fit_quantiles(x), x) for x in (rewards, moved)]
    np.testing.assert_allclose(*scaled, atol=1e-4)


@pytest.mark.parametrize(
    "kl, factor", [(3.0, 1.0), (3.3, 1 + 0.1 * 0.0256), (100.0, 1 + 0.2 * 0.0256), (0.0, 1 - 0.2 * 0.0256)]
)
def test_kl_coefficient_follows_the_clipped_error(kl, factor):
    np.testing.assert_allclose(adapt_kl_coefficient(jnp.array(0.2), kl, 256), 0.2 * factor, rtol=1e-6)


def test_quantiles_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="low and high"):
        fit_quantiles(jnp.zeros((3, 1)), low=0.9, high=0.1)
