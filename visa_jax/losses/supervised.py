"""Losses of the supervised parts: base model and SFT, value detector, translator, Fact Analyzer.

Each returns a ``WeightedSum`` over rows or tokens; ``mean()`` is the loss. ``mask_B`` (None = all rows)
leaves out padding rows.
"""

import jax
import jax.numpy as jnp

from visa_jax.ops.masked import masked_count, masked_sum
from visa_jax.ops.numerics import as_float, cosine
from visa_jax.types import Array, WeightedSum

SMALLEST_SHIFT = 0.5  # of the strengths a shift can have


def next_token(logp_BT: Array, mask_BT: Array) -> WeightedSum:
    """-Σ m log p(token) over Σ m.

    Args:
      logp_BT: log-probability that position t gave to the token that came, see ``ops.numerics.token_logps``.
      mask_BT: True where that token counts.
    """
    return _over(-as_float(logp_BT), mask_BT)


def value_regression(
    predicted_BM: Array, label_BM: Array, mask_B: Array | None = None, *, cosine_weight: float = 0.5
) -> WeightedSum:
    """mean_m (v̂ - v)² + λ (1 - cos(v̂, v)) per row; no cosine term where the label is the zero vector (VISA's detector).

    Args:
      predicted_BM: v̂ in [-1, 1].
      label_BM: v in [-1, 1].
      mask_B: rows that count.
      cosine_weight: λ.
    """
    predicted_BM, label_BM = as_float(predicted_BM), as_float(label_BM)
    has_direction_B = jnp.any(label_BM != 0, axis=-1)
    turn_B = jnp.where(has_direction_B, 1 - cosine(predicted_BM, label_BM), 0)
    return _over(jnp.mean(jnp.square(predicted_BM - label_BM), axis=-1) + cosine_weight * turn_B, mask_B)


def shift_regression(
    predicted_BM: Array,
    label_BM: Array,
    mask_B: Array | None = None,
    *,
    huber_delta: float = 1.0,
    sign_weight: float = 0.5,
) -> WeightedSum:
    """mean_m Huber(Δ̂ - Δ) + w · mean over Δ_m ≠ 0 of max(0, ½ - sign(Δ_m) Δ̂_m) per row (VISA's translator).

    The sign term is 0 once Δ̂ has the right sign and at least the smallest strength, so it does not bias sizes.

    Args:
      predicted_BM: Δ̂ in [-2, 2].
      label_BM: Δ in {0, ±½, ±1, ±1½, ±2}.
      mask_B: rows that count.
      huber_delta: error beyond which Huber's loss is linear.
      sign_weight: w.
    """
    predicted_BM, label_BM = as_float(predicted_BM), as_float(label_BM)
    error_BM = jnp.abs(predicted_BM - label_BM)
    near_BM = jnp.minimum(error_BM, huber_delta)
    huber_B = jnp.mean(near_BM * (error_BM - near_BM / 2), axis=-1)
    active_BM = label_BM != 0
    lack_BM = jax.nn.relu(SMALLEST_SHIFT - jnp.sign(label_BM) * predicted_BM)
    active_B = masked_count(active_BM, -1, dtype=lack_BM.dtype)
    sign_B = masked_sum(lack_BM, active_BM, -1) / jnp.maximum(active_B, 1)
    return _over(huber_B + sign_weight * sign_B, mask_B)


def entailment(logit_B: Array, label_B: Array, mask_B: Array | None = None) -> WeightedSum:
    """Binary cross-entropy of p = σ(logit), p the probability that the premise entails the hypothesis.

    Args:
      logit_B: real numbers.
      label_B: 1 or True = entailed, 0 = not; soft labels in between are allowed.
      mask_B: pairs that count.
    """
    logit_B = as_float(logit_B)
    return _over(jax.nn.softplus(logit_B) - label_B.astype(logit_B.dtype) * logit_B, mask_B)


def _over(loss, mask):
    mask = jnp.ones(loss.shape, bool) if mask is None else mask
    return WeightedSum(total=masked_sum(loss, mask), weight=masked_count(mask, dtype=loss.dtype))
