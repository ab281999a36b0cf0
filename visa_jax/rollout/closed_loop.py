"""The closed loop: measure a rewrite, and draw again those that missed their target or lost the facts (VISA notes 2).

1 a first try for every row (the caller makes it greedy)   2 measure value vector, consistency and reward
3 rows that fail get another try, up to ``tries``          4 an accepted try is kept, else the one of largest reward
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Measured(NamedTuple):
    """What is measured of n texts."""

    value_NM: np.ndarray  # D(y)
    forward_N: np.ndarray  # F: nothing invented
    backward_N: np.ndarray  # B: nothing omitted
    reward_N: np.ndarray  # the rewriter's reward


class Try(NamedTuple):
    """One text and how it did."""

    text: str
    value_M: np.ndarray
    forward: float
    backward: float
    reward: float
    distance: float  # ||v_pred - v_tgt||
    accepted: bool

    @property
    def consistency(self) -> float:
        return (self.forward + self.backward) / 2


class Looped(NamedTuple):
    """The tries of each of N rows, in order, and which of them stands."""

    tries: list[list[Try]]
    chosen: list[int]

    @property
    def texts(self) -> list[str]:
        return [tries[i].text for tries, i in zip(self.tries, self.chosen, strict=True)]


def run_loop(
    try_fn: Callable[[np.ndarray, int], tuple[list[str], Measured]],
    target_NM: np.ndarray,
    *,
    tries: int,
    max_distance: float,
    min_consistency: float,
) -> Looped:
    """Draw until a text is accepted, at most ``tries`` times a row (N = 4, .8 and .3 in VISA notes 2).

    Accepted: ||v_pred - v_tgt|| < max_distance and (F + B)/2 > min_consistency.

    Args:
      try_fn: ``(row numbers [n], number of the try) -> (n texts, Measured)``; asked only for rows still to be done.
      target_NM: v_tgt of each row.
      tries: at least 1.

    Returns:
      Every try of every row. The accepted one stands, it is a row's last; without one the largest reward does
      (the earliest of equals).

    Raises:
      ValueError: ``tries`` is below 1.
    """
    if tries < 1:
        raise ValueError(f"tries must be at least 1, got {tries}")
    target_NM = np.asarray(target_NM)
    done: list[list[Try]] = [[] for _ in target_NM]
    rows = np.arange(len(target_NM))
    for number in range(tries):
        if not len(rows):
            break
        texts, measured = try_fn(rows, number)
        distance_N = np.linalg.norm(measured.value_NM - target_NM[rows], axis=1)
        consistency_N = (measured.forward_N + measured.backward_N) / 2
        accepted_N = (distance_N < max_distance) & (consistency_N > min_consistency)
        for place, row in enumerate(rows):
            figures = (x[place] for x in (measured.forward_N, measured.backward_N, measured.reward_N, distance_N))
            made = Try(texts[place], measured.value_NM[place], *map(float, figures), bool(accepted_N[place]))
            done[row].append(made)
        rows = rows[~accepted_N]
    return Looped(done, [_best(row) for row in done])


def _best(tries: list[Try]) -> int:
    return len(tries) - 1 if tries[-1].accepted else int(np.argmax([each.reward for each in tries]))
