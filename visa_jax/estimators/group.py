"""Advantages from the completions of one prompt: GRPO, Dr.GRPO, GDPO, RLOO. NaN = reward not applicable."""

import jax.numpy as jnp

from visa_jax.ops.masked import masked_count, masked_mean, masked_std, masked_sum
from visa_jax.ops.numerics import as_float
from visa_jax.types import Array

SCALES = ("group", "batch", "none")
AGGREGATIONS = ("sum_then_normalize", "normalize_then_sum")


def group_advantages(
    reward_BK: Array,
    group_size: int,
    *,
    reward_weights: Array | None = None,
    scale_rewards: str = "group",
    aggregation: str = "sum_then_normalize",
    std_eps: float = 1e-4,
    std_ddof: int = 1,
) -> Array:
    """Advantages of completions against the other completions of their prompt.

    * ``sum_then_normalize`` (GRPO, Shao et al. 2024): R_i = Σ_k w_k r_ik, A_i = R_i - mean_group R,
      divided by the deviation of the group or of the batch plus ``std_eps``, or by nothing
      (``none``: Dr.GRPO, Liu et al. 2025).
    * ``normalize_then_sum`` (GDPO, 2026): each reward is normalised within its group, the weighted sum
      over rewards within the batch; ``scale_rewards`` is not used. Two equally weighted rewards of
      constant sum still give 0.

    Args:
      reward_BK: rewards, higher is better; a NaN entry is left out of every sum, mean and
        deviation. Row b belongs to group b // ``group_size``.
      group_size: rows of a group, at least 2; divides B.
      reward_weights: ``[K]`` weights of the rewards; None = all 1.
      scale_rewards: ``"group"``, ``"batch"`` or ``"none"``.
      aggregation: ``"sum_then_normalize"`` or ``"normalize_then_sum"``.
      std_eps: added to a deviation before it divides.
      std_ddof: the variance divides by the count minus this (1 = sample).

    Returns:
      ``[B]`` advantages; 0 for a row without a reward and for a group with fewer than two
      rows that have one.

    Raises:
      ValueError: a name is unknown, or ``group_size`` or ``reward_weights`` does not fit.
    """
    reward_BK, weight_K = _check(reward_BK, group_size, reward_weights)
    if scale_rewards not in SCALES:
        raise ValueError(f"scale_rewards must be one of {', '.join(SCALES)}, got {scale_rewards!r}")
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, got {aggregation!r}")

    valid_BK = ~jnp.isnan(reward_BK)
    if aggregation == "normalize_then_sum":
        scaled_BK = _within_groups(reward_BK, valid_BK, group_size, std_eps, std_ddof)
        total_B, valid_B = _weighted_sum(scaled_BK, valid_BK, weight_K)
        adv_B = total_B - masked_mean(total_B, valid_B)
    else:
        total_B, valid_B = _weighted_sum(reward_BK, valid_BK, weight_K)
        adv_B = _within_groups(total_B, valid_B, group_size, std_eps if scale_rewards == "group" else None, std_ddof)
    if aggregation == "normalize_then_sum" or scale_rewards == "batch":
        adv_B = adv_B / (masked_std(total_B, valid_B, ddof=std_ddof) + std_eps)
    return jnp.where(valid_B, adv_B, 0)


def rloo_advantages(reward_BK: Array, group_size: int, *, reward_weights: Array | None = None) -> Array:
    """R_i minus the mean of the other completions of its prompt (RLOO, Ahmadian et al. 2024).

    Args, Raises: as in ``group_advantages``.

    Returns:
      ``[B]`` advantages; 0 for a row without a reward or without another row to compare with.
    """
    reward_BK, weight_K = _check(reward_BK, group_size, reward_weights)
    total_B, valid_B = _weighted_sum(reward_BK, ~jnp.isnan(reward_BK), weight_K)
    total_NG, valid_NG = total_B.reshape(-1, group_size), valid_B.reshape(-1, group_size)
    others_N1 = masked_count(valid_NG, 1, dtype=total_NG.dtype, keepdims=True) - 1
    mean_NG = (masked_sum(total_NG, valid_NG, 1, keepdims=True) - total_NG) / jnp.maximum(others_N1, 1)
    return jnp.where(valid_NG & (others_N1 > 0), total_NG - mean_NG, 0).reshape(-1)


def _check(reward_BK, group_size, reward_weights):
    reward_BK = as_float(reward_BK)
    if reward_BK.ndim != 2:
        raise ValueError(f"reward_BK must have two axes [B, K], got shape {reward_BK.shape}")
    B, K = reward_BK.shape
    if group_size < 2:
        raise ValueError(f"group_size must be at least 2, got {group_size}")
    if B % group_size:
        raise ValueError(f"group_size must divide the {B} rows of reward_BK, got {group_size}")
    weight_K = jnp.ones(K, reward_BK.dtype) if reward_weights is None else jnp.asarray(reward_weights, reward_BK.dtype)
    if weight_K.shape != (K,):
        raise ValueError(f"reward_weights must have the {K} entries of reward_BK's rows, got shape {weight_K.shape}")
    return reward_BK, weight_K


def _weighted_sum(x_BK, valid_BK, weight_K):
    """Σ_k w_k x_k over the valid entries, and the rows that have any."""
    filled_BK = jnp.where(valid_BK, x_BK, 0)
    return jnp.sum(filled_BK * weight_K[None, :], axis=1), valid_BK.any(axis=1)


def _within_groups(x, valid, group_size, std_eps, std_ddof):
    """x minus its group's mean, divided by its group's deviation unless ``std_eps`` is None. x is [B] or [B, K]."""
    x, valid = (y.reshape(-1, group_size, *y.shape[1:]) for y in (jnp.where(valid, x, 0), valid))
    centred = x - masked_mean(x, valid, axis=1, keepdims=True)
    if std_eps is not None:
        centred = centred / (masked_std(x, valid, axis=1, ddof=std_ddof, keepdims=True) + std_eps)
    return centred.reshape(-1, *x.shape[2:])
