"""Sums, means and variances over the entries that a mask counts; nothing counted gives 0."""

import functools
import operator
from collections.abc import Sequence

import jax.numpy as jnp

from visa_jax.ops.numerics import as_float, sqrt_or_zero
from visa_jax.types import Array, EndId

Axis = int | Sequence[int] | None


def masked_sum(x: Array, mask: Array, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Σ x over the entries where ``mask`` is True.

    Masked entries may hold anything, NaN and infinities included: neither the value nor
    the gradient sees them.

    Args:
      x: array of any shape.
      mask: bool, same shape; True counts.
      axis: axis or axes to reduce, None for all.
      keepdims: keep the reduced axes with length 1.

    Returns:
      The sums, in the floating dtype of ``x``; 0 where nothing counts.
    """
    x = as_float(x)
    return jnp.sum(jnp.where(mask.astype(bool), x, 0), axis=axis, keepdims=keepdims)


def masked_count(mask: Array, axis: Axis = None, *, dtype=jnp.float32, keepdims: bool = False) -> Array:
    """How many entries count, as a floating number."""
    return jnp.sum(mask.astype(bool), axis=axis, keepdims=keepdims).astype(dtype)


def masked_mean(x: Array, mask: Array, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Mean over the entries where ``mask`` is True; 0 where nothing counts. Arguments as in ``masked_sum``."""
    total = masked_sum(x, mask, axis, keepdims=keepdims)
    count = masked_count(mask, axis, dtype=total.dtype, keepdims=keepdims)
    return total / jnp.maximum(count, 1)


def masked_var(x: Array, mask: Array, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False) -> Array:
    """Variance over the entries where ``mask`` is True, in two passes.

    Args:
      x: array of any shape.
      mask: bool, same shape; True counts.
      axis: axis or axes to reduce, None for all.
      ddof: the divisor is the count minus this (0 population, 1 sample).
      keepdims: keep the reduced axes with length 1.

    Returns:
      The variances; 0 where no more than ``ddof`` entries count.
    """
    # masked entries are emptied first: the gradient of a square is NaN where the entry is, whatever comes after
    x = jnp.where(mask.astype(bool), as_float(x), 0)
    centred = x - masked_mean(x, mask, axis, keepdims=True)
    total = masked_sum(jnp.square(centred), mask, axis, keepdims=keepdims)
    freedom = masked_count(mask, axis, dtype=total.dtype, keepdims=keepdims) - ddof
    return jnp.where(freedom > 0, total / jnp.maximum(freedom, 1), 0)


def masked_std(x: Array, mask: Array, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False) -> Array:
    """Square root of ``masked_var``; its gradient at a variance of 0 is 0, not NaN."""
    return sqrt_or_zero(masked_var(x, mask, axis, ddof=ddof, keepdims=keepdims))


def is_end(token: Array, end_id: EndId) -> Array:
    """Whether each token ends a completion; bool, of the shape of ``token``, numpy's or JAX's as that is."""
    ends = end_id if isinstance(end_id, tuple) else (end_id,)
    return functools.reduce(operator.or_, (token == each for each in ends))
