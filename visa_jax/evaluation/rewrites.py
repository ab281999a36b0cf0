"""Judging rewrites: VISA's table, by held-out judges and, on the testbed, by the exact oracle (VISA notes 8)."""

from collections.abc import Sequence

import numpy as np

from visa_jax.data.testbed.bed import Testbed
from visa_jax.evaluation.run import Readers
from visa_jax.types import VALUES, Params

JSR_L2, JSR_CONSISTENCY = 0.8, 0.3  # the paper's joint success: L2 < .8 and C > .3
BINS = ((0.0, 0.75, "0.5"), (0.75, 1.25, "1"), (1.25, 9.0, "1.5 and more"))
UNMOVED = 1e-3


def judge_rewrites(
    readers: Readers,
    judges: tuple[Params, Params],
    testbed: Testbed | None,
    sources: Sequence[str],
    target_NM: np.ndarray,
    texts: Sequence[str],
) -> dict[str, np.ndarray]:
    """Every metric per row, [n] each.

    Args:
      readers: jitted readers of texts.
      judges: parameters of the held-out detector and the held-out analyzer.
      testbed: its oracle adds ``oracle_*`` and ``oracle_unreadable``; None leaves them out.
    """
    value_NM = readers.values(judges[0], texts)
    forward_N, backward_N = readers.entailment(judges[1], sources, texts)
    rows = judged_rows(value_NM, target_NM, forward_N, backward_N)
    if testbed is not None:
        told = [testbed.oracle.judge_rewrite(s, t, y) for s, t, y in zip(sources, target_NM, texts, strict=True)]
        for name in told[0]:
            rows[name] = np.array([row[name] for row in told], np.float64)
        rows["oracle_consistency_forward"] = rows.pop("oracle_forward")
        rows["oracle_consistency_backward"] = rows.pop("oracle_backward")
        rows["oracle_unreadable"] = 1 - rows.pop("readable")
    return rows


def judged_rows(
    value_NM: np.ndarray, target_NM: np.ndarray, forward_N: np.ndarray, backward_N: np.ndarray
) -> dict[str, np.ndarray]:
    """The paper's metrics per row: consistency forward, backward, mean; value L2 and cosine; JSR."""
    distance_N = np.linalg.norm(value_NM - target_NM, axis=1)
    norms_N = np.linalg.norm(value_NM, axis=1) * np.linalg.norm(target_NM, axis=1)
    cosine_N = np.sum(value_NM * target_NM, axis=1) / np.maximum(norms_N, 1e-9)
    # a zero target has no direction: the row does not count in the mean cosine
    cosine_N = np.where(np.linalg.norm(target_NM, axis=1) < UNMOVED, np.nan, cosine_N)
    consistency_N = (forward_N + backward_N) / 2
    return {
        "consistency_forward": forward_N,
        "consistency_backward": backward_N,
        "consistency": consistency_N,
        "value_l2": distance_N,
        "value_cos": cosine_N,
        "jsr": ((distance_N < JSR_L2) & (consistency_N > JSR_CONSISTENCY)).astype(float),
    }


def mean_row(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """One row of the table: means, undefined entries left out."""
    return {name: float(np.nanmean(column)) for name, column in rows.items()}


def shift_bins(rows: dict[str, np.ndarray], shift_NM: np.ndarray) -> list[dict]:
    """The same metrics by the size of the largest single move |target - v_orig| that was asked for."""
    size_N = np.abs(shift_NM).max(axis=1)
    bins = []
    for low, high, name in BINS:
        here = (size_N >= low) & (size_N < high)
        if here.any():
            bins.append({"shift": name, "count": int(here.sum()), **mean_row({k: v[here] for k, v in rows.items()})})
    return bins


def leakage(before_NM: np.ndarray, after_NM: np.ndarray, target_NM: np.ndarray) -> float:
    """Mean |change| of the values that nobody asked to move (|target - before| < 0.1)."""
    still_NM = np.abs(target_NM - before_NM) < 0.1
    return float(np.abs(after_NM - before_NM)[still_NM].mean()) if still_NM.any() else float("nan")


def named_values(value_M: np.ndarray, least: float = 0.25) -> dict[str, float]:
    """The values that a vector really holds, by name."""
    return {VALUES[i]: round(float(v), 2) for i, v in enumerate(value_M) if abs(v) >= least}
