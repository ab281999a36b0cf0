"""FishWood: the toy world of multi-objective RL whose front is known (after MO-Gymnasium's ``fishwood-v0``).

A day has 200 steps and begins in the wood. At each step the forager first earns where it is (in the wood one wood
with probability 0.9, at the pond one fish with probability 0.1) and then chooses where to go next, so an action
*is* the next place. A step is worth 1/200 of a full day wherever it is spent, hence in expectation

    fish / 20 + wood / 180 = 1                                                                      (the front)

for *every* policy: here only control can be judged. With ``idle`` (ours) there is a third place that earns
nothing, and the left side is the share of the day that was not idled away.
"""

import jax
import jax.numpy as jnp

from visa_jax.types import Array

PLACES = ("fish", "wood", "idle")
OBJECTIVES = PLACES[:2]
START = 1  # the wood
EARNINGS = (0.1, 0.9, 0.0)  # probability of one unit per step and place
STEPS = 200
FULL_DAY = (20.0, 180.0)  # fish of a day at the pond, wood of a day in the wood: what becomes 1


def place_count(idle: bool) -> int:
    """Number of places S, which is also the number of actions."""
    return len(PLACES) if idle else len(OBJECTIVES)


def visited_places(action_BT: Array) -> Array:
    """Where each step is spent: the start, then where the action before led. int32 ``[B, T]`` -> ``[B, T]``."""
    start_B1 = jnp.full((action_BT.shape[0], 1), START, action_BT.dtype)
    return jnp.concatenate([start_B1, action_BT[:, :-1]], axis=1)


def sample_actions(key: Array, prob_BSS: Array, steps: int = STEPS) -> Array:
    """Days of policies that look only at the place: one table of probabilities per day.

    Args:
      key: typed PRNG key.
      prob_BSS: ``prob_BSS[b, s]`` is the distribution of the next place at place s.
      steps: T.

    Returns:
      int32 ``[B, T]`` actions.
    """
    uniform_TB = jax.random.uniform(key, (steps, prob_BSS.shape[0]))
    # what each step would choose at every place, so that only the walk itself is sequential
    bound_BSA = jnp.cumsum(prob_BSS, axis=-1)[..., :-1]
    choice_TBS = jnp.sum(uniform_TB[:, :, None, None] >= bound_BSA[None], axis=-1, dtype=jnp.int32)

    def walk(place_B, choice_BS):
        action_B = jnp.take_along_axis(choice_BS, place_B[:, None], axis=1)[:, 0]
        return action_B, action_B

    start_B = jnp.full(prob_BSS.shape[:1], START, jnp.int32)
    return jax.lax.scan(walk, start_B, choice_TBS)[1].T


def earn(key: Array, action_BT: Array) -> Array:
    """What each day brings in: ``[B, 2]`` fish and wood, raw counts."""
    place_BT = visited_places(action_BT)
    lucky_BT = jax.random.uniform(key, place_BT.shape) < jnp.asarray(EARNINGS)[place_BT]
    return jnp.stack([jnp.sum(lucky_BT & (place_BT == k), axis=1) for k in range(len(OBJECTIVES))], axis=1) * 1.0


def expected_earnings(prob_SS: Array, steps: int = STEPS) -> Array:
    """Exact mean of ``earn`` for one policy: ``[2]``, by carrying the distribution over places through the day."""

    def step(occupied_S, _):
        return occupied_S @ prob_SS, occupied_S

    start_S = jax.nn.one_hot(START, prob_SS.shape[0], dtype=prob_SS.dtype)
    occupied_TS = jax.lax.scan(step, start_S, length=steps)[1]
    return (jnp.sum(occupied_TS, axis=0) * jnp.asarray(EARNINGS)[: prob_SS.shape[0]])[: len(OBJECTIVES)]


def front(points: int = 101) -> Array:
    """The front in raw counts, ``[P, 2]``, from all wood to all fish."""
    share_P = jnp.linspace(0.0, 1.0, points)
    return jnp.stack([share_P, 1 - share_P], axis=1) * jnp.asarray(FULL_DAY)[None, :]
