"""K losses into one number, given a preference. Losses are lower-is-better: rewards enter negated."""

import jax
import jax.numpy as jnp

from visa_jax.ops.numerics import safe_norm
from visa_jax.types import Array


def linear(loss_K: Array, preference_K: Array) -> Array:
    """Σ_k p_k f_k. Reaches only the convex part of a front. Both ``[..., K]``; returns ``[...]``."""
    return jnp.sum(preference_K * loss_K, axis=-1)


def tchebycheff(loss_K: Array, preference_K: Array, ideal_K: Array) -> Array:
    """max_k p_k (f_k - z_k) (Bowman 1976). Reaches every Pareto point.

    Args:
      loss_K: losses f ``[..., K]``.
      preference_K: preference p ``[..., K]``.
      ideal_K: z ``[..., K]``, no loss is below it.

    Returns:
      ``[...]``.
    """
    return jnp.max(preference_K * (loss_K - ideal_K), axis=-1)


def smooth_tchebycheff(loss_K: Array, preference_K: Array, ideal_K: Array, *, mu: float) -> Array:
    """μ log Σ_k exp(p_k (f_k - z_k) / μ) (Lin et al. 2024, eq. 5).

    Above ``tchebycheff`` by at most μ log K; ``mu`` > 0. Other arguments as there.

    Raises:
      ValueError: ``mu`` is not positive.
    """
    if mu <= 0:
        raise ValueError(f"mu must be positive, got {mu}")
    return mu * jax.nn.logsumexp(preference_K * (loss_K - ideal_K) / mu, axis=-1)


def pbi(loss_K: Array, preference_K: Array, ideal_K: Array, *, theta: float = 5.0) -> Array:
    """Penalty boundary intersection d1 + θ d2 (Zhang & Li 2007, §III.C).

    d1 = (f - z)·p / ‖p‖ is the way along p, d2 = ‖f - z - d1 p / ‖p‖‖ the distance from it. Arguments as
    in ``tchebycheff``; ``theta`` = θ of the paper's experiments.
    """
    direction_K = preference_K / safe_norm(preference_K, keepdims=True)
    along = jnp.sum((loss_K - ideal_K) * direction_K, axis=-1)
    across_K = loss_K - ideal_K - along[..., None] * direction_K
    return along + theta * safe_norm(across_K)
