"""The simplex of weights: its faces, its centre, projection onto it, linear systems on its faces."""

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.solvers.systems import solve_small
from visa_jax.types import Array

LARGEST_ENUMERATION = 8  # 2^8 - 1 = 255 faces


def supports(K: int) -> np.ndarray:
    """The 2^K - 1 non-empty subsets of K objectives, as bool ``[S, K]``, small sets first.

    Raises:
      ValueError: K is beyond what enumeration is for.
    """
    if not 1 <= K <= LARGEST_ENUMERATION:
        raise ValueError(f"K must be in [1, {LARGEST_ENUMERATION}] for an exact solve, got {K}")
    subsets = (np.arange(1, 2**K)[:, None] >> np.arange(K)[None, :]) & 1
    return subsets[np.argsort(subsets.sum(axis=1), kind="stable")].astype(bool)


def uniform(active_K: Array, dtype) -> Array:
    """Equal weights over the active objectives; over all of them where none is active."""
    active_K = active_K | ~active_K.any()
    return active_K.astype(dtype) / jnp.sum(active_K).astype(dtype)


def active_signals(gram_KK: Array, *, tolerance: float = 1e-10) -> Array:
    """Which signals are not zero: ``[K]`` bool, G_kk above ``tolerance`` times the trace.

    A zero signal (a dropped control, a constant reward) is the shortest vector of any hull that holds it,
    so min-norm gives it all the weight and learning stops; pass this to ``min_norm`` to take it out.
    """
    diagonal_K = jnp.diagonal(gram_KK)
    return diagonal_K > tolerance * jnp.sum(diagonal_K)


def solve_on_supports(matrix_KK: Array, rhs_SK: Array, support_SK: np.ndarray) -> Array:
    """For each support s: the x with matrix[s, s] x[s] = rhs[s], and 0 outside s.

    One batch of K x K systems: rows and columns outside a support are those of the identity.
    A singular system gives an x that solves nothing, so the caller must judge what comes back.
    """
    inside_SKK = support_SK[:, :, None] & support_SK[:, None, :]
    eye_KK = jnp.eye(matrix_KK.shape[0], dtype=matrix_KK.dtype)
    systems_SKK = jnp.where(inside_SKK, matrix_KK[None], eye_KK[None])
    return solve_small(systems_SKK, jnp.where(support_SK, rhs_SK, 0))


def feasible(weight_SK: Array) -> Array:
    """Candidates made feasible: negative weights cut, the rest divided by their sum."""
    weight_SK = jnp.maximum(weight_SK, 0)
    return weight_SK / jnp.sum(weight_SK, axis=-1, keepdims=True)


def project_simplex(x_K: Array) -> Array:
    """The point of the simplex nearest to ``x_K`` (Duchi et al. 2008, fig. 1)."""
    descending_K = jnp.sort(x_K)[::-1]
    excess_K = jnp.cumsum(descending_K) - 1
    count_K = jnp.arange(1, x_K.shape[0] + 1).astype(x_K.dtype)
    last = jnp.sum(descending_K * count_K > excess_K) - 1
    return jax.nn.relu(x_K - excess_K[last] / count_K[last])
