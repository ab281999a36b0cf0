"""Does the policy do what its condition says? Order, distance, range, and differences over seeds."""

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike


def kendall_tau(preferences: ArrayLike, rewards: ArrayLike) -> float:
    """Kendall's tau-b between p_k and mean reward k, averaged over the objectives.

    Args:
      preferences: ``[M, K]``, or ``[M]`` for one objective.
      rewards: mean reward under each preference, same shape.

    Returns:
      In [-1, 1]; an objective whose reward (or preference) is constant counts 0.

    Raises:
      ValueError: the shapes differ.
    """
    columns = zip(*_columns(preferences, rewards), strict=True)
    return float(np.mean([_tau(p, r) for p, r in columns]))


def _tau(preference, reward):
    if np.ptp(preference) == 0 or np.ptp(reward) == 0:
        return 0.0
    return scipy.stats.kendalltau(preference, reward, variant="b").statistic


def control_error(scaled_mean_rewards: ArrayLike, preferences: ArrayLike) -> float:
    """Mean over preferences of ‖mean scaled reward - p‖², the squared distance summed over objectives.

    Args:
      scaled_mean_rewards: ``[M, K]`` on the scale of the preferences.
      preferences: ``[M, K]``.

    Returns:
      At least 0; blind to the spread of single completions, see ``sample_control_error``.

    Raises:
      ValueError: the shapes differ.
    """
    preference_KM, reward_KM = _columns(preferences, scaled_mean_rewards)
    return float(np.mean(np.sum((reward_KM - preference_KM) ** 2, axis=0)))


def sample_control_error(scaled_rewards: ArrayLike, preferences: ArrayLike) -> float:
    """E[(1/K) Σ_k (r_k - p_k)²] over single completions: the left side of MOC's constraint.

    Args:
      scaled_rewards: ``[S, K]``, one row per completion.
      preferences: ``[S, K]``, what each was asked for.

    Returns:
      At least 0.

    Raises:
      ValueError: the shapes differ.
    """
    preference_KS, reward_KS = _columns(preferences, scaled_rewards)
    return float(np.mean((reward_KS - preference_KS) ** 2))


def monotone_share(preferences: ArrayLike, rewards: ArrayLike) -> float:
    """Share of steps to the next larger p_k on which mean reward k rises, averaged over the objectives.

    Preferences with equal p_k are averaged first. Arguments as in ``kendall_tau``; a constant policy scores 0.
    """
    shares = []
    for preference, reward in zip(*_columns(preferences, rewards), strict=True):
        levels, index = np.unique(preference, return_inverse=True)
        means = np.bincount(index, weights=reward) / np.bincount(index)
        shares.append(np.mean(np.diff(means) > 0) if len(levels) > 1 else 0.0)
    return float(np.mean(shares))


def reward_range(rewards: ArrayLike) -> np.ndarray:
    """Largest minus smallest mean reward per objective, ``[K]``, of rewards ``[M, K]``."""
    return np.ptp(np.asarray(rewards, np.float64), axis=0)


def seed_difference(ours: ArrayLike, theirs: ArrayLike, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean difference of a figure over paired seeds with its t interval.

    Args:
      ours: ``[S]``, one figure per seed.
      theirs: ``[S]``, the same seeds in the same order.
      confidence: of the interval, in (0, 1).

    Returns:
      ``(mean, low, high)``; the ends are infinite for a single seed.

    Raises:
      ValueError: the lengths differ or are 0.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape or ours.ndim != 1 or not len(ours):
        raise ValueError(f"ours and theirs must be of one length, got shapes {ours.shape} and {theirs.shape}")
    difference = ours - theirs
    mean = float(np.mean(difference))
    if len(difference) == 1:
        return mean, -np.inf, np.inf
    margin = float(scipy.stats.t.ppf((1 + confidence) / 2, len(difference) - 1) * scipy.stats.sem(difference))
    return mean, mean - margin, mean + margin


def _columns(preferences, rewards):
    preferences, rewards = np.asarray(preferences, np.float64), np.asarray(rewards, np.float64)
    if preferences.shape != rewards.shape or preferences.ndim not in (1, 2) or not len(preferences):
        raise ValueError(f"preferences and rewards must have one shape, got {preferences.shape} and {rewards.shape}")
    return np.atleast_2d(preferences.T), np.atleast_2d(rewards.T)
