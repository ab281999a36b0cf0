"""From a loss per token to one number: which tokens count how much, and what divides at the end.

Each reduction gives a scale per token and a divisor, so that loss = Σ scale · L / divisor. Sums and divisors
of micro-batches and devices add up to those of the whole batch, ``bnpo`` apart: it divides within the
micro-batch and averages over micro-batches, so it depends on how the batch is cut (uncut it is ``dapo``).
"""

import jax.numpy as jnp

from visa_jax.ops.numerics import as_float
from visa_jax.types import Array, WeightedSum


def _per_row(mask_BT, _):
    """Mean over rows of the row's mean (grpo, sapo)."""
    length_B1 = jnp.sum(mask_BT, axis=1, keepdims=True)
    return mask_BT / jnp.maximum(length_B1, 1), mask_BT.shape[0]


def _per_micro_batch_token(mask_BT, _):
    """Mean over the tokens of the micro-batch; every micro-batch weighs the same (bnpo)."""
    return mask_BT / jnp.maximum(jnp.sum(mask_BT), 1), 1


def _per_token(mask_BT, _):
    """Mean over the tokens of the whole batch (dapo, cispo)."""
    return mask_BT, jnp.sum(mask_BT)


def _constant(mask_BT, max_completion_length):
    """Sum over the tokens by a constant: long rows are not discounted (dr_grpo)."""
    if max_completion_length is None:
        raise ValueError("max_completion_length must be given for loss_type 'dr_grpo'")
    return mask_BT, mask_BT.shape[0] * max_completion_length


def _row_sum(mask_BT, _):
    """Mean over rows of the row's sum (luspo)."""
    return mask_BT, mask_BT.shape[0]


REDUCTIONS = {
    "grpo": _per_row,
    "sapo": _per_row,
    "bnpo": _per_micro_batch_token,
    "dapo": _per_token,
    "cispo": _per_token,
    "dr_grpo": _constant,
    "luspo": _row_sum,
}


def reduce_tokens(
    loss_type: str, loss_BT: Array, mask_BT: Array, max_completion_length: int | None = None
) -> WeightedSum:
    """The batch's loss as a sum and its divisor.

    Args:
      loss_type: name of a reduction, a key of ``REDUCTIONS``.
      loss_BT: loss per token; ignored where masked.
      mask_BT: True where a token counts.
      max_completion_length: T of the configuration, for ``dr_grpo``.

    Returns:
      ``WeightedSum``; its ``mean()`` is the loss.

    Raises:
      ValueError: unknown ``loss_type``, or ``dr_grpo`` without ``max_completion_length``.
    """
    loss_BT = as_float(loss_BT)
    scale_BT, divisor = _scale(loss_type, mask_BT, max_completion_length, loss_BT.dtype)
    total = jnp.sum(scale_BT * jnp.where(mask_BT.astype(bool), loss_BT, 0))
    return WeightedSum(total=total, weight=divisor)


def token_weights(
    loss_type: str, mask_BT: Array, max_completion_length: int | None = None, *, dtype=jnp.float32
) -> Array:
    """The w_BT with loss = Σ w · L, 0 where masked. Arguments as in ``reduce_tokens``."""
    scale_BT, divisor = _scale(loss_type, mask_BT, max_completion_length, dtype)
    return scale_BT / jnp.where(divisor == 0, 1, divisor)


def _scale(loss_type, mask_BT, max_completion_length, dtype):
    if loss_type not in REDUCTIONS:
        raise ValueError(f"loss_type must be one of {', '.join(REDUCTIONS)}, got {loss_type!r}")
    scale_BT, divisor = REDUCTIONS[loss_type](mask_BT.astype(bool).astype(dtype), max_completion_length)
    return scale_BT, jnp.asarray(divisor, dtype)
