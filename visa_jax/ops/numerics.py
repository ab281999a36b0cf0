"""Numerics that stay finite, gradients included, where the textbook formula does not."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from visa_jax.types import Array


def as_float(x) -> Array:
    """``x`` as an array of float32 or float64: 16-bit floats are raised, integers take the session's default."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.result_type(float))
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def sqrt_or_zero(x: Array) -> Array:
    """√x for x > 0 and 0 elsewhere, with gradient 0 there (that of √ at 0 is infinite)."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_norm(x: Array, axis: int = -1, *, keepdims: bool = False) -> Array:
    """Euclidean norm whose gradient at the zero vector is 0."""
    return sqrt_or_zero(jnp.sum(jnp.square(as_float(x)), axis=axis, keepdims=keepdims))


def cosine(a: Array, b: Array, axis: int = -1, *, eps: float = 1e-12) -> Array:
    """Cosine of the angle between ``a`` and ``b``; 0, with zero gradient, where either is the zero vector.

    Args:
      a: vectors along ``axis``.
      b: vectors of the same shape.
      axis: the axis of the vectors.
      eps: norms whose product is not above this count as zero.

    Returns:
      Cosines in [-1, 1], without ``axis``.
    """
    a, b = as_float(a), as_float(b)
    norms = safe_norm(a, axis) * safe_norm(b, axis)
    defined = norms > eps
    return jnp.where(defined, jnp.sum(a * b, axis=axis) / jnp.where(defined, norms, 1), 0)


LOGSUMEXP = "token_logps.logsumexp"  # the name under which a rematerialisation policy may keep it


def token_logps(logits: Array, token: Array) -> Array:
    """log softmax(logits) at one token, without an array of log-probabilities over the vocabulary.

    The gradient, onehot - softmax, is written in one pass from the log-sum-exp (kept under the name ``LOGSUMEXP``).

    Args:
      logits: ``[..., V]``; bfloat16 is raised to float32 before the sum of exponentials.
      token: int ``[...]``, in [0, V).

    Returns:
      ``[...]`` log-probabilities, at most 0.
    """
    return _token_logps(as_float(logits), token)


@jax.custom_jvp
def _token_logps(logits, token):
    chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
    return chosen - checkpoint_name(jax.nn.logsumexp(logits, axis=-1), LOGSUMEXP)


@_token_logps.defjvp
def _token_logps_jvp(primals, tangents):
    logits, token = primals
    chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
    total = checkpoint_name(jax.nn.logsumexp(logits, axis=-1), LOGSUMEXP)
    ids = jnp.arange(logits.shape[-1], dtype=token.dtype).reshape((1,) * token.ndim + (-1,))
    # by comparison: elementwise, where the gradient of a gather is a slow scatter
    slope = jnp.where(ids == token[..., None], 1.0, 0.0) - jnp.exp(logits - total[..., None])
    return chosen - total, jnp.sum(slope * tangents[0], axis=-1)


def entropy(logits: Array) -> Array:
    """Entropy in nats of softmax(logits) along the last axis; entries of -inf count as impossible."""
    logits = as_float(logits)
    possible = jnp.isfinite(logits)
    finite = jnp.where(possible, logits, 0)
    probability = jnp.where(possible, jax.nn.softmax(logits, axis=-1), 0)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(probability * finite, axis=-1)
