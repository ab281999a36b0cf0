"""FishWood against days that can be counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.data.testbed import fishwood

ALWAYS_FISH = jnp.array([[1.0, 0.0], [1.0, 0.0]])
ALWAYS_WOOD = jnp.array([[0.0, 1.0], [0.0, 1.0]])
ALTERNATE = jnp.array([[0.0, 1.0], [1.0, 0.0]])


def random_policies(seed, count, places):
    return jax.nn.softmax(2 * jax.random.normal(jax.random.key(seed), (count, places, places)))


@pytest.mark.parametrize(
    ("policy", "earned"),
    [
        (ALWAYS_WOOD, (0, 200 * 0.9)),
        (ALWAYS_FISH, (199 * 0.1, 0.9)),  # the day starts in the wood
        (ALTERNATE, (100 * 0.1, 100 * 0.9)),
    ],
)
def test_expected_earnings_by_hand(policy, earned):
    np.testing.assert_allclose(fishwood.expected_earnings(policy), earned, rtol=1e-5)


def test_every_policy_lies_on_the_front_in_expectation():
    earned = jax.vmap(fishwood.expected_earnings)(random_policies(0, 20, 2))
    np.testing.assert_allclose(earned[:, 0] / 20 + earned[:, 1] / 180, 1.0, rtol=1e-5)
    assert np.ptp(earned[:, 0]) > 5  # and they are different policies


def test_idling_leaves_the_front_by_the_share_of_the_day_idled_away():
    # always idle: one step in the wood, 199 elsewhere; idle from the pond only: wood, pond, idle, wood, pond, idle ...
    always_idle = jnp.zeros((3, 3)).at[:, 2].set(1.0)
    np.testing.assert_allclose(fishwood.expected_earnings(always_idle), [0, 0.9], atol=1e-6)
    third = jnp.zeros((3, 3)).at[jnp.array([1, 0, 2]), jnp.array([0, 2, 1])].set(1.0)
    np.testing.assert_allclose(fishwood.expected_earnings(third), [67 * 0.1, 67 * 0.9], rtol=1e-5)


def test_actions_lead_to_the_place_of_the_next_step():
    np.testing.assert_array_equal(fishwood.visited_places(jnp.array([[0, 0, 1, 2]])), [[fishwood.START, 0, 0, 1]])
    walked = fishwood.sample_actions(jax.random.key(0), jnp.stack([ALTERNATE, ALWAYS_WOOD]), steps=5)
    np.testing.assert_array_equal(walked, [[0, 1, 0, 1, 0], [1, 1, 1, 1, 1]])


@pytest.mark.parametrize("places", [2, 3])
def test_sampled_actions_follow_their_table(places):
    prob_SS = random_policies(1, 1, places)[0]
    days = 400
    table = jnp.broadcast_to(prob_SS[None], (days, places, places))
    action_BT = fishwood.sample_actions(jax.random.key(2), table)
    place_BT = np.asarray(fishwood.visited_places(action_BT))
    for place in range(places):
        chosen = np.asarray(action_BT)[place_BT == place]
        frequency = np.bincount(chosen, minlength=places) / len(chosen)
        np.testing.assert_allclose(frequency, prob_SS[place], atol=4 * 0.5 / np.sqrt(len(chosen)))


@pytest.mark.parametrize("places", [2, 3])
def test_earnings_of_sampled_days_have_the_expected_mean(places):
    prob_SS = random_policies(3, 1, places)[0]
    days = 2000
    table = jnp.broadcast_to(prob_SS[None], (days, places, places))
    action_key, luck_key = jax.random.split(jax.random.key(4))
    reward_BK = np.asarray(fishwood.earn(luck_key, fishwood.sample_actions(action_key, table)))
    margin = 4 * reward_BK.std(0) / np.sqrt(days)
    assert np.all(np.abs(reward_BK.mean(0) - np.asarray(fishwood.expected_earnings(prob_SS))) < margin)
    assert np.all(reward_BK == np.round(reward_BK))  # whole fish and whole logs


def test_luck_is_independent_at_every_step():
    # a day in the wood is binomial(200, 0.9): deviation sqrt(18)
    actions = jnp.ones((4000, fishwood.STEPS), jnp.int32)
    wood_B = np.asarray(fishwood.earn(jax.random.key(5), actions))[:, 1]
    assert abs(wood_B.std() - np.sqrt(18)) < 0.25


def test_front_joins_the_two_full_days():
    front = np.asarray(fishwood.front(3))
    np.testing.assert_allclose(front, [[0, 180], [10, 90], [20, 0]])


def test_idle_adds_one_place():
    assert fishwood.place_count(False) == 2 and fishwood.place_count(True) == 3
    assert fishwood.PLACES[fishwood.START] == "wood"
