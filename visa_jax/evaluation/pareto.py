"""Fronts of mean rewards, one point per preference. Higher is better in every column."""

import moocore
import numpy as np
from numpy.typing import ArrayLike


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the points dominate above the reference point.

    Args:
      points: ``[P, K]``; dominated ones, doubles and those below the reference add nothing.
      reference: ``[K]``; print it with every figure.

    Returns:
      The volume, at least 0; exact (moocore).

    Raises:
      ValueError: ``reference`` does not have the K entries of a point, or something is not finite.
    """
    points, reference = _points(points), np.asarray(reference, np.float64)
    if reference.shape != points.shape[1:]:
        raise ValueError(f"reference must have {points.shape[1]} entries, got shape {reference.shape}")
    if not np.isfinite(reference).all():
        raise ValueError("reference must be finite")
    return float(moocore.hypervolume(points, ref=reference, maximise=True))


def non_dominated(points: ArrayLike) -> np.ndarray:
    """Bool ``[P]``: no other point is at least as good everywhere and better somewhere; of doubles the first."""
    return np.asarray(moocore.is_nondominated(_points(points), maximise=True, keep_weakly=False), bool)


def pareto_front(points: ArrayLike) -> np.ndarray:
    """The non-dominated points themselves, ``[F, K]``, in the order given and without doubles.

    ``non_dominated`` gives their mask.
    """
    return _points(points)[non_dominated(points)]


def sparsity(points: ArrayLike) -> float:
    """1/(F - 1) Σ_k Σ_f (s_kf - s_k,f+1)² over the sorted columns s of the front (PGMORL, Xu et al. 2020, eq. 4).

    Lower is denser; 0 for a front of one point, so read it beside the hyper-volume.
    """
    front = np.sort(pareto_front(points), axis=0)
    return float(np.sum(np.diff(front, axis=0) ** 2) / max(len(front) - 1, 1))


def _points(points):
    points = np.asarray(points, np.float64)
    if points.ndim != 2:
        raise ValueError(f"points must have two axes [P, K], got shape {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite")
    return points
