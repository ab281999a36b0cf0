"""Reading the evaluated points of a section: one point for each preference, method and run."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Cloud(NamedTuple):
    """The points of one method, seen or unseen, in order of the first preference.

    preference_SM: [S, M], all different. mean_SK: [S, K] mean over runs. sd_SK: [S, K], 0 where there is one run.
    all_PK: [P, K] every single point.
    """

    preference_SM: np.ndarray
    mean_SK: np.ndarray
    sd_SK: np.ndarray
    all_PK: np.ndarray


def gather(points: Sequence[Mapping], key: str, *, unseen: bool | None = None) -> Cloud | None:
    """Points that have ``key``, grouped by preference; None where there are none.

    Args:
        points: records {"preference": [M], key: [K], "unseen": bool}.
        unseen: keep only points with this mark; None keeps all.
    """
    kept = [p for p in points if p.get(key) is not None and (unseen is None or bool(p.get("unseen")) == unseen)]
    if not kept:
        return None
    groups: dict[tuple, list] = {}
    for point in kept:
        groups.setdefault(tuple(np.round(point["preference"], 6)), []).append(np.asarray(point[key], dtype=float))
    ordered = sorted(groups)
    return Cloud(
        preference_SM=np.array(ordered, dtype=float),
        mean_SK=np.stack([np.mean(groups[p], axis=0) for p in ordered]),
        sd_SK=np.stack([np.std(groups[p], axis=0, ddof=min(1, len(groups[p]) - 1)) for p in ordered]),
        all_PK=np.concatenate([np.stack(groups[p]) for p in ordered]),
    )


def objective_names(section: Mapping, count: int) -> list[str]:
    """Names of the K objectives: "objectives" of the section where they are there, else numbers."""
    names = list(section.get("objectives") or [])
    return names if len(names) == count else [f"objective {k + 1}" for k in range(count)]
