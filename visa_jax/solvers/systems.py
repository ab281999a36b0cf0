"""Linear algebra of K x K matrices in plain array operations, batched over leading axes.

Written out because the matrices are tiny and live inside larger jitted, vmapped programs: a LAPACK call per
matrix costs more than the arithmetic, and batches of LAPACK calls inside a loop were seen to hang on CPU
(jaxlib 0.10.2, a program waiting for ever with all threads idle).
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.types import Array

SWEEPS = 10  # of Jacobi's method; convergence is quadratic after the first few


def solve_small(matrix: Array, rhs: Array) -> Array:
    """x with matrix · x = rhs, by Gauss-Jordan elimination with partial pivoting.

    Args:
      matrix: ``[..., K, K]``.
      rhs: ``[..., K]``, same leading axes.

    Returns:
      ``[..., K]``. For a singular matrix some finite or infinite x that need not solve anything: check it.
    """
    K = matrix.shape[-1]

    def eliminate(carry, column):
        table, unused = carry
        entry = jnp.take(table, column, axis=-1)
        is_pivot = jax.nn.one_hot(jnp.argmax(jnp.where(unused, jnp.abs(entry), -1), axis=-1), K, dtype=bool)
        pivot = jnp.sum(jnp.where(is_pivot, entry, 0), axis=-1)[..., None, None]
        row = jnp.sum(jnp.where(is_pivot[..., None], table, 0), axis=-2, keepdims=True)
        row = row / jnp.where(pivot == 0, 1, pivot)
        table = jnp.where(is_pivot[..., None], row, table - entry[..., None] * row)
        return (table, unused & ~is_pivot), is_pivot

    start = jnp.concatenate([matrix, rhs[..., None]], axis=-1), jnp.ones(rhs.shape, bool)
    (table, _), is_pivot = jax.lax.scan(eliminate, start, jnp.arange(K))
    return jnp.moveaxis(jnp.sum(jnp.where(is_pivot, table[..., K][None], 0), axis=-1), 0, -1)


def eigh_small(matrix_KK: Array) -> tuple[Array, Array]:
    """Eigen-decomposition of a symmetric matrix by Jacobi's method.

    Args:
      matrix_KK: symmetric.

    Returns:
      ``(values_K, vectors_KK)``: eigenvalues in no order, eigenvectors as columns.
    """
    K = matrix_KK.shape[0]
    eye_KK = jnp.eye(K, dtype=matrix_KK.dtype)
    pairs = np.array(list(itertools.combinations(range(K), 2)) * SWEEPS, np.int32).reshape(-1, 2)

    def rotate(carry, pair):
        matrix_KK, vector_KK = carry
        p, q = pair
        # the angle in (-π/4, π/4] that makes entry (p, q) zero
        angle = jnp.arctan2(2 * matrix_KK[p, q], matrix_KK[q, q] - matrix_KK[p, p]) / 2
        c, s = jnp.cos(angle), jnp.sin(angle)
        rotation_KK = eye_KK.at[p, p].set(c).at[q, q].set(c).at[p, q].set(s).at[q, p].set(-s)
        rotated_KK = _product(_product(rotation_KK.T, matrix_KK), rotation_KK)
        return (rotated_KK, _product(vector_KK, rotation_KK)), None

    (diagonal_KK, vector_KK), _ = jax.lax.scan(rotate, (matrix_KK, eye_KK), pairs)
    return jnp.diagonal(diagonal_KK), vector_KK


def _product(a_KK, b_KK):
    return jnp.matmul(a_KK, b_KK, precision="highest")
