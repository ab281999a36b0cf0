"""One scale for K rewards, and a KL coefficient that steers itself."""

import jax.numpy as jnp

from visa_jax.ops.numerics import as_float
from visa_jax.types import Array, record


@record
class QuantileNormalizer:
    """The frozen ends of each reward's scale; belongs beside every figure that shows scaled rewards."""

    low_K: Array  # float32: becomes 0
    high_K: Array  # float32: becomes 1


def fit_quantiles(reward_SK: Array, *, low: float = 0.05, high: float = 0.95) -> QuantileNormalizer:
    """Fit the ends of the scale to quantiles of sampled rewards (those of the start policy).

    Args:
      reward_SK: S samples of K rewards; NaN entries are left out.
      low: quantile that becomes 0.
      high: quantile that becomes 1, above ``low``.

    Returns:
      The normaliser; never updated afterwards.

    Raises:
      ValueError: not 0 <= low < high <= 1.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"low and high must satisfy 0 <= low < high <= 1, got {low}, {high}")
    low_K, high_K = jnp.nanquantile(as_float(reward_SK), jnp.array([low, high], as_float(reward_SK).dtype), axis=0)
    return QuantileNormalizer(low_K=low_K, high_K=high_K)


def scale_rewards(normalizer: QuantileNormalizer, reward_SK: Array, *, ceiling: float = 1.5) -> Array:
    """clip((r - low) / (high - low), 0, ceiling) per reward; 0 for a reward that never varied.

    Args:
      normalizer: fitted ends.
      reward_SK: raw rewards ``[..., K]``; NaN stays NaN.
      ceiling: largest scaled reward.

    Returns:
      Scaled rewards ``[..., K]``, on the scale of the preferences.
    """
    leading = (None,) * (reward_SK.ndim - 1)
    low, span = normalizer.low_K[leading], (normalizer.high_K - normalizer.low_K)[leading]
    scaled = (reward_SK - low) / jnp.where(span > 0, span, jnp.inf)
    return jnp.clip(scaled, 0, ceiling)


def adapt_kl_coefficient(
    coefficient: Array, kl: Array, rows: int, *, target: float = 3.0, horizon: float = 10_000, limit: float = 0.2
) -> Array:
    """The KL coefficient after one update: too much KL raises it (Ziegler et al. 2019, §2.2).

    κ ← κ (1 + clip(kl / target - 1, ±limit) · rows / horizon)

    Args:
      coefficient: κ, positive.
      kl: mean KL of a completion (summed over its tokens) in this batch.
      rows: completions in this batch.
      target: KL to hold.
      horizon: completions over which the coefficient adapts.
      limit: largest relative error that is acted on.

    Returns:
      The new κ.
    """
    error = jnp.clip(kl / target - 1, -limit, limit)
    return coefficient * (1 + error * (rows / horizon))
