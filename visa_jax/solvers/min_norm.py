"""The shortest vector in the convex hull of K signals, given only their Gram matrix."""

import jax
import jax.numpy as jnp

from visa_jax.ops.numerics import as_float
from visa_jax.solvers.simplex import feasible, supports, uniform
from visa_jax.solvers.systems import solve_small
from visa_jax.types import Array

STEPS = 1000  # Frank-Wolfe: 2e-5 on every weight for 8 signals whose norms span two orders (60 random draws)


def min_norm(gram_KK: Array, method: str = "exact", *, active_K: Array | None = None) -> Array:
    """argmin over the simplex of cᵀ G c: MGDA's weights (Désidéri 2012; Sener & Koltun 2018, eq. 4).

    Two signals have a closed form, c_1 = clip((G_22 - G_12) / (G_11 + G_22 - 2 G_12), 0, 1). ``exact`` solves
    the equality-constrained problem on each of the 2^K - 1 faces and takes the best feasible point;
    ``frank_wolfe`` takes a fixed number of steps with away steps (Lacoste-Julien & Jaggi 2015, alg. 1).

    Args:
      gram_KK: G_kl = <signal k, signal l>, symmetric positive semi-definite, of any scale.
      method: ``"exact"`` (K <= 8) or ``"frank_wolfe"``.
      active_K: bool, signals that may have weight (``active_signals``); None = all.

    Returns:
      ``[K]`` weights, at least 0, sum 1. Where several points are shortest, any of them; uniform if G
      is 0; NaN if G is. Weights are data: no gradient flows through them.

    Raises:
      ValueError: unknown ``method``, ``gram_KK`` not square, or K > 8 with ``exact``.
    """
    gram_KK = jax.lax.stop_gradient(as_float(gram_KK))
    if gram_KK.ndim != 2 or gram_KK.shape[0] != gram_KK.shape[1]:
        raise ValueError(f"gram_KK must be square, got shape {gram_KK.shape}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    K = gram_KK.shape[0]
    active_K = jnp.ones(K, bool) if active_K is None else active_K.astype(bool)
    trace = jnp.sum(jnp.where(active_K, jnp.diagonal(gram_KK), 0))
    # the scale of G changes no weight, but it decides what underflows
    weight_K = METHODS[method](gram_KK / jnp.where(trace == 0, 1, trace), active_K)
    return jnp.where((trace == 0) | ~active_K.any(), uniform(active_K, gram_KK.dtype), weight_K)


def _exact(gram_KK, active_K):
    if gram_KK.shape[0] == 2:
        return _closed_form(gram_KK, active_K)
    support_SK = supports(gram_KK.shape[0])
    candidate_SK = feasible(_stationary_points(gram_KK, support_SK))
    length_S = jnp.einsum("sk,kl,sl->s", candidate_SK, gram_KK, candidate_SK)
    allowed_S = ~(support_SK & ~active_K[None, :]).any(axis=1)
    usable_S = allowed_S & jnp.isfinite(length_S)
    # A face with dependent vectors gives no usable point, but some face of independent ones holds the same minimum.
    return candidate_SK[jnp.argmin(jnp.where(usable_S, length_S, jnp.inf))]


def _stationary_points(gram_KK, support_SK):
    """Where cᵀ G c is stationary on the plane of each face: [[G, 1], [1, 0]] [c, ν] = [0, 1]."""
    S, K = support_SK.shape
    inside_SKK = support_SK[:, :, None] & support_SK[:, None, :]
    face_SKK = jnp.where(inside_SKK, gram_KK[None], jnp.eye(K, dtype=gram_KK.dtype)[None])
    border_SK1 = jnp.asarray(support_SK, gram_KK.dtype)[:, :, None]
    corner_S11 = jnp.zeros((S, 1, 1), gram_KK.dtype)
    system = jnp.block([[face_SKK, border_SK1], [border_SK1.transpose(0, 2, 1), corner_S11]])
    rhs = jnp.zeros((S, K + 1), gram_KK.dtype).at[:, K].set(1)
    return solve_small(system, rhs)[:, :K]


def _closed_form(gram_KK, active_K):
    numerator = gram_KK[1, 1] - gram_KK[0, 1]
    distance = gram_KK[0, 0] + gram_KK[1, 1] - 2 * gram_KK[0, 1]
    first = jnp.where(distance <= 0, 0.5, jnp.clip(numerator / jnp.where(distance <= 0, 1, distance), 0, 1))
    weight_K = jnp.stack([first, 1 - first])
    return jnp.where(active_K.all(), weight_K, active_K.astype(weight_K.dtype))


def _frank_wolfe(gram_KK, active_K):
    def step(_, weight_K):
        slope_K = gram_KK @ weight_K
        toward = jnp.argmin(jnp.where(active_K, slope_K, jnp.inf))
        away = jnp.argmax(jnp.where(weight_K > 0, slope_K, -jnp.inf))
        here = weight_K @ slope_K
        is_away = slope_K[away] - here > here - slope_K[toward]
        vertex = jnp.where(is_away, away, toward)
        sign = jnp.where(is_away, -1, 1).astype(weight_K.dtype)
        direction_K = sign * (jax.nn.one_hot(vertex, weight_K.shape[0], dtype=weight_K.dtype) - weight_K)
        longest = jnp.where(is_away, weight_K[away] / jnp.maximum(1 - weight_K[away], 1e-30), 1)
        curvature = direction_K @ gram_KK @ direction_K
        best = -(direction_K @ slope_K) / jnp.where(curvature > 0, curvature, 1)
        size = jnp.where(curvature > 0, jnp.clip(best, 0, longest), 0)
        moved_K = jnp.maximum(weight_K + size * direction_K, 0)
        # a full away step leaves the vertex for good: rounding must not keep it in the support
        moved_K = jnp.where(is_away & (size >= longest), moved_K.at[away].set(0), moved_K)
        return moved_K / jnp.sum(moved_K)

    return jax.lax.fori_loop(0, STEPS, step, uniform(active_K, gram_KK.dtype))


METHODS = {"exact": _exact, "frank_wolfe": _frank_wolfe}
