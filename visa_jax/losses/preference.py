"""Losses on pairs of a chosen and a rejected completion, over the sums of their tokens' log-probabilities."""

import jax
import jax.numpy as jnp

from visa_jax.ops.numerics import as_float
from visa_jax.types import Array, WeightedSum


def dpo(
    chosen_B: Array, rejected_B: Array, chosen_ref_B: Array, rejected_ref_B: Array, *, beta: float = 0.1
) -> WeightedSum:
    """-log σ(β[(log π - log π_ref)(chosen) - (log π - log π_ref)(rejected)]) (DPO, Rafailov et al. 2023, eq. 7).

    Args:
      chosen_B: Σ_t log π of the chosen completions.
      rejected_B: the same of the rejected ones.
      chosen_ref_B: the same of the chosen ones under the reference.
      rejected_ref_B: the same of the rejected ones under the reference.
      beta: β > 0.

    Returns:
      Sum over pairs and their number.
    """
    margin_B = (as_float(chosen_B) - chosen_ref_B) - (as_float(rejected_B) - rejected_ref_B)
    return _logistic(beta * margin_B)


def simpo(
    chosen_B: Array,
    rejected_B: Array,
    chosen_length_B: Array,
    rejected_length_B: Array,
    *,
    beta: float = 2.0,
    gamma: float = 0.5,
) -> WeightedSum:
    """-log σ(β log π(chosen)/|chosen| - β log π(rejected)/|rejected| - γ) (SimPO, Meng et al. 2024, eq. 6).

    Args:
      chosen_B: Σ_t log π of the chosen completions.
      rejected_B: the same of the rejected ones.
      chosen_length_B: tokens of the chosen completions; 0 counts as 1.
      rejected_length_B: tokens of the rejected ones.
      beta: β > 0.
      gamma: margin γ asked for, at least 0.

    Returns:
      Sum over pairs and their number.
    """
    chosen_B, rejected_B = (
        as_float(logp_B) / jnp.maximum(length_B, 1).astype(as_float(logp_B).dtype)
        for logp_B, length_B in ((chosen_B, chosen_length_B), (rejected_B, rejected_length_B))
    )
    return _logistic(beta * (chosen_B - rejected_B) - gamma)


def _logistic(margin_B):
    pairs = jnp.asarray(margin_B.size, margin_B.dtype)
    return WeightedSum(total=jnp.sum(jax.nn.softplus(-margin_B)), weight=pairs)
