"""The closed loop against rows whose tries are written down."""

import numpy as np
import pytest

from visa_jax.rollout.closed_loop import Measured, run_loop

TARGET = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
# row -> try -> (value vector, F, B, reward)
SCRIPT = {
    0: [((1.0, 0.7), 0.9, 0.1, 0.0)],  # L2 .7 < .8 and C .5 > .3: at once
    1: [((0.0, 0.2), 1.0, 1.0, 9.0), ((0.0, 1.0), 0.3, 0.3, 8.0), ((0.0, 0.9), 0.5, 0.2, 1.0)],  # L2 = .8, C = .3, ok
    2: [((0.9, 0.0), 1.0, 1.0, 2.0), ((0.9, 0.0), 1.0, 1.0, 5.0), ((0.9, 0.0), 1.0, 1.0, 5.0), ((9, 0), 1.0, 1.0, 4.0)],
}


@pytest.fixture
def played():
    """(try function over SCRIPT, the calls it got)."""
    calls = []

    def attempt(rows, number):
        calls.append((rows.tolist(), number))
        told = [SCRIPT[row][number] for row in rows]
        value, forward, backward, reward = (np.array(column) for column in zip(*told, strict=True))
        return [f"row {row} try {number}" for row in rows], Measured(value, forward, backward, reward)

    return attempt, calls


LIMITS = {"max_distance": 0.8, "min_consistency": 0.3}


def test_only_rows_that_failed_are_drawn_again(played):
    attempt, calls = played
    looped = run_loop(attempt, TARGET, tries=4, **LIMITS)
    assert calls == [([0, 1, 2], 0), ([1, 2], 1), ([1, 2], 2), ([2], 3)]
    assert [len(tries) for tries in looped.tries] == [1, 3, 4]


def test_the_accepted_try_stands_else_the_largest_reward(played):
    looped = run_loop(played[0], TARGET, tries=4, **LIMITS)
    # row 1: its accepted last try, although the rejected ones were rewarded more; row 2: the first of the two best
    assert looped.texts == ["row 0 try 0", "row 1 try 2", "row 2 try 1"]
    assert [tries[i].accepted for tries, i in zip(looped.tries, looped.chosen, strict=True)] == [True, True, False]


def test_a_try_carries_its_figures(played):
    first = run_loop(played[0], TARGET, tries=4, **LIMITS).tries[0][0]
    assert (first.forward, first.backward, first.consistency, first.reward) == (0.9, 0.1, 0.5, 0.0)
    assert first.distance == pytest.approx(0.7) and first.value_M.tolist() == [1.0, 0.7]


def test_one_try_is_the_single_shot(played):
    attempt, calls = played
    looped = run_loop(attempt, TARGET, tries=1, **LIMITS)
    assert calls == [([0, 1, 2], 0)] and looped.chosen == [0, 0, 0]
    with pytest.raises(ValueError, match="tries must be at least 1, got 0"):
        run_loop(attempt, TARGET, tries=0, **LIMITS)


def test_both_limits_are_strict():
    """L2 of exactly the limit, or C of exactly the limit, is not good enough (exact in floating point: .5 and .25)."""

    def attempt(rows, number):
        value = np.array([[0.5, 0.0], [0.25, 0.0], [0.25, 0.0]])[rows]
        forward = np.array([1.0, 0.25, 0.5])[rows]
        return ["", "", ""], Measured(value, forward, forward, np.zeros(len(rows)))

    looped = run_loop(attempt, np.zeros((3, 2)), tries=1, max_distance=0.5, min_consistency=0.25)
    assert [tries[0].accepted for tries in looped.tries] == [False, False, True]
