"""Group advantages: arithmetic written out, then the peers' numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.estimators import group_advantages, rloo_advantages

NAN = float("nan")


def column(*rewards):
    return jnp.array(rewards)[:, None]


def test_group_of_four_by_hand():
    # mean 1, deviations -1 0 0 1, sample std √(2/3)
    adv = group_advantages(column(0.0, 1.0, 1.0, 2.0), 4, std_eps=0.0)
    np.testing.assert_allclose(adv, np.array([-1, 0, 0, 1]) / np.sqrt(2 / 3), rtol=1e-6)


def test_population_deviation_and_eps():
    adv = group_advantages(column(0.0, 2.0), 2, std_eps=0.5, std_ddof=0)
    np.testing.assert_allclose(adv, [-1 / 1.5, 1 / 1.5], rtol=1e-6)


def test_batch_scale_keeps_the_mean_of_each_group():
    reward = column(0.0, 2.0, 10.0, 14.0)
    # group means 1 and 12; std of all four = √((6.5² + 4.5² + 3.5² + 7.5²) / 3)
    std = np.sqrt((6.5**2 + 4.5**2 + 3.5**2 + 7.5**2) / 3)
    expected = np.array([-1, 1, -2, 2]) / (std + 1e-4)
    np.testing.assert_allclose(group_advantages(reward, 2, scale_rewards="batch"), expected, rtol=1e-6)
    np.testing.assert_allclose(group_advantages(reward, 2, scale_rewards="none"), [-1, 1, -2, 2], rtol=1e-6)


def test_weights_and_missing_rewards():
    reward = jnp.array([[1.0, NAN], [2.0, 3.0], [NAN, NAN], [NAN, 1.0]])
    # R = 1·2 | 2·2 + 3·10 | nothing | 1·10, mean over the three = 46/3
    adv = group_advantages(reward, 4, reward_weights=[2.0, 10.0], scale_rewards="none")
    np.testing.assert_allclose(adv, [2 - 46 / 3, 34 - 46 / 3, 0, 10 - 46 / 3], rtol=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_group_with_one_reward_or_equal_rewards_has_no_advantage(scale, aggregation):
    reward = column(5.0, NAN, 3.0, 3.0, NAN, NAN, 1.0, 2.0)
    adv = group_advantages(reward, 2, scale_rewards=scale, aggregation=aggregation)
    np.testing.assert_array_equal(adv[:6], 0)
    assert adv[6] < 0 < adv[7]


def test_normalize_then_sum_by_hand():
    # each reward of each group is ±a with a = ½ / √½ = √½; signs: (-,-) (+,+) | (-,+) (+,-)
    reward = jnp.array([[0.0, 0.0], [1.0, 8.0], [0.0, 9.0], [5.0, 1.0]])
    a = np.sqrt(0.5)
    total = np.array([-3 * a, 3 * a, a, -a])  # weights 1 and 2
    expected = total / total.std(ddof=1)
    adv = group_advantages(reward, 2, reward_weights=[1, 2], aggregation="normalize_then_sum", std_eps=0.0)
    np.testing.assert_allclose(adv, expected, rtol=1e-5)


def test_normalize_then_sum_of_a_constant_sum_is_zero():
    first = jnp.array([0.1, 0.9, 0.4, 0.2])
    adv = group_advantages(jnp.stack([first, 1 - first], 1), 4, aggregation="normalize_then_sum")
    np.testing.assert_allclose(adv, 0, atol=2e-2)  # rounding over std_eps
    np.testing.assert_array_equal(group_advantages(jnp.stack([first, -first], 1), 4), 0)


def test_shift_of_a_group_and_order_of_rows_change_nothing():
    reward = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    adv = group_advantages(reward, 4)
    shift = np.repeat([[1.0], [-3.0], [7.0]], 4, 0).astype(np.float32)
    np.testing.assert_allclose(group_advantages(reward + shift, 4), adv, atol=2e-5)
    order = np.array([2, 0, 3, 1, 7, 6, 5, 4, 8, 11, 9, 10])
    np.testing.assert_allclose(group_advantages(reward[order], 4), adv[order], atol=1e-6)


def test_rloo_is_reward_minus_mean_of_the_others():
    adv = rloo_advantages(column(1.0, 2.0, 6.0, 4.0, NAN, 8.0, NAN, NAN, 3.0), 3)
    np.testing.assert_allclose(adv, [1 - 4, 2 - 3.5, 6 - 1.5, 4 - 8, 0, 8 - 4, 0, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_gradient_is_finite_with_missing_and_equal_rewards(aggregation):
    reward = jnp.array([[1.0, NAN], [1.0, NAN], [2.0, 1.0], [NAN, NAN]])
    loss = lambda r, w: jnp.sum(group_advantages(r, 2, reward_weights=w, aggregation=aggregation) ** 2)
    for gradient in jax.grad(loss, argnums=(0, 1))(reward, jnp.ones(2)):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "argument, change",
    [
        ("group_size", {"group_size": 3}),
        ("group_size", {"group_size": 1}),
        ("scale_rewards", {"scale_rewards": "groups"}),
        ("aggregation", {"aggregation": "mean"}),
        ("reward_weights", {"reward_weights": [1.0, 2.0, 3.0]}),
        ("reward_BK", {"reward_BK": jnp.ones(4)}),
    ],
)
def test_bad_arguments_are_named(argument, change):
    with pytest.raises(ValueError, match=argument):
        group_advantages(**{"reward_BK": jnp.ones((4, 2)), "group_size": 2, **change})


def test_agrees_with_peers(shared, x64):
    known = json.loads((shared / "oracles.json").read_text())["advantages"]
    reward, size, weights = known["reward_BK"], known["group_size"], known["reward_weights"]
    for name, arguments in {
        "sum_then_normalize_group": {},
        "sum_then_normalize_none": {"scale_rewards": "none"},
        "normalize_then_sum": {"aggregation": "normalize_then_sum"},
    }.items():
        adv = group_advantages(np.array(reward), size, reward_weights=weights, **arguments)
        assert adv.dtype == jnp.float64
        np.testing.assert_allclose(adv, known[name], atol=2e-6, rtol=2e-6)
