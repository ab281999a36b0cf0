"""Rewards and value vectors from the logits of a published classifier, its classes found by their names."""

from collections.abc import Callable, Sequence

import numpy as np

from visa_jax.config import UserError
from visa_jax.types import VALUES

SCORES = ("logit", "log_odds")
FOR, AGAINST = "attained", "constrained"  # ends of the labels of Touché 2024's human values


def reward_column(labels: Sequence[str], label: str) -> int:
    """Which class is the reward: the only one, else the one called ``label``. UserError where that is not settled."""
    if len(labels) == 1 and label in ("", labels[0]):
        return 0
    if label not in labels:
        named = (
            f"no class is called {label!r}" if label else f"has {len(labels)} classes and no label says which rewards"
        )
        raise UserError(f"{named} (id2label: {', '.join(labels)})")
    return list(labels).index(label)


def class_score(logits_BC: np.ndarray, column: int, score: str) -> np.ndarray:
    """[B]: the logit of a class, or its log-odds log p/(1 - p) under the softmax (of one class: its logit)."""
    chosen_B = logits_BC[:, column]
    if score == "logit" or logits_BC.shape[1] == 1:
        return chosen_B
    return chosen_B - np.logaddexp.reduce(np.delete(logits_BC, column, axis=1), axis=1)


def make_value_reading(labels: Sequence[str], problem: str) -> Callable[[np.ndarray], np.ndarray]:
    """``values(logits_BC) -> value_BM`` in [-1, 1], M in the order of ``VALUES``.

    Ten classes named as the values are independent presences, v = sigmoid(logit) in [0, 1], so that such a model never
    sees a text work against a value; with problem_type ``regression`` they are the values themselves, clipped. Twenty
    classes, "<value> attained" and "<value> constrained", are signed: v = sigmoid(for) - sigmoid(against). Names count
    without case, hyphens, spaces and the like.

    Args:
      labels: names of the classes.
      problem: problem_type of config.json.

    Raises:
      UserError: another number of classes, a value without a class, or classes that exclude one another.
    """
    if problem == "single_label_classification":
        raise UserError("its classes exclude one another (problem_type), a text may express several values")
    place = {_plain(label): i for i, label in enumerate(labels)}
    ends = {len(VALUES): ("",), 2 * len(VALUES): (FOR, AGAINST)}.get(len(labels))
    if ends is None:
        raise UserError(f"has {len(labels)} classes, expected the {len(VALUES)} values or each {FOR} and {AGAINST}")
    columns = []
    for end in ends:
        for value in VALUES:
            if _plain(value) + end not in place:
                named = f"{value} {end}".strip()
                raise UserError(f"no class is called {named!r} (id2label: {', '.join(labels)})")
        columns.append([place[_plain(value) + end] for value in VALUES])

    def values(logits_BC: np.ndarray) -> np.ndarray:
        level_BC = logits_BC if problem == "regression" else 0.5 * (1 + np.tanh(0.5 * logits_BC))
        against_BM = level_BC[:, columns[1]] if len(columns) > 1 else 0.0
        return np.clip(level_BC[:, columns[0]] - against_BM, -1.0, 1.0)

    return values


def _plain(label: str) -> str:
    return "".join(filter(str.isalnum, label.lower()))
