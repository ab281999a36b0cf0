"""Judging a preference-conditioned policy over a grid of preferences: MOC's table (MOC notes 8)."""

from collections.abc import Mapping, Sequence

import numpy as np

from visa_jax.evaluation.control import (
    control_error,
    kendall_tau,
    monotone_share,
    reward_range,
    sample_control_error,
)
from visa_jax.evaluation.pareto import hypervolume, sparsity


def front_row(
    preference_PK: np.ndarray, reward_PK: np.ndarray, scaled_PK: np.ndarray, reference: Sequence[float]
) -> dict[str, float]:
    """One row of the table from the mean rewards under each preference.

    ``reward_PK`` is on the scale of the hyper-volume and its ``reference`` point, ``scaled_PK`` on that of preferences.
    """
    return {
        "hypervolume": hypervolume(reward_PK, reference),
        "tau": kendall_tau(preference_PK, reward_PK),
        "control_error": control_error(scaled_PK, preference_PK),
        "sparsity": sparsity(reward_PK),
        "range": float(reward_range(reward_PK).mean()),
        "monotone": monotone_share(preference_PK, reward_PK),
    }


def policy_rows(
    preference_PK: np.ndarray,
    reward_PEK: np.ndarray,
    scaled_PEK: np.ndarray,
    seen_P: np.ndarray,
    reference: Sequence[float],
    unseen_sets: Sequence[np.ndarray],
) -> dict[str, float]:
    """Metrics on the seen grid, tau on the unseen sets (mean over sets), control error of single completions.

    Args:
      reward_PEK: E completions under each of P preferences.
      scaled_PEK: the same on the scale of the preferences.
      seen_P: which preferences belong to the seen grid.
      unseen_sets: index arrays into P.
    """
    mean_PK, scaled_PK = reward_PEK.mean(axis=1), scaled_PEK.mean(axis=1)
    row = front_row(preference_PK[seen_P], mean_PK[seen_P], scaled_PK[seen_P], reference)
    if len(unseen_sets):
        row["tau_unseen"] = float(np.mean([kendall_tau(preference_PK[i], mean_PK[i]) for i in unseen_sets]))
        errors = [control_error(scaled_PK[i], preference_PK[i]) for i in unseen_sets]
        row["control_error_unseen"] = float(np.mean(errors))
    completions = scaled_PEK.shape[1]
    row["control_error_single"] = sample_control_error(
        scaled_PEK[seen_P].reshape(-1, scaled_PEK.shape[2]), np.repeat(preference_PK[seen_P], completions, axis=0)
    )
    return row


def points(
    preference_PK: np.ndarray, means: Mapping[str, np.ndarray], scaled_PK: np.ndarray, seen_P: np.ndarray
) -> list[dict]:
    """The points of the Pareto and control figures under each preference.

    ``means``: mean rewards [P, K] by who judged, "learned" and, where there is one, "oracle".
    """
    kinds = dict(means) | {"scaled": scaled_PK}
    return [
        {"preference": [round(float(x), 2) for x in preference_M], "unseen": not bool(seen_P[p])}
        | {kind: [round(float(x), 4) for x in mean_PK[p]] for kind, mean_PK in kinds.items()}
        for p, preference_M in enumerate(preference_PK)
    ]
