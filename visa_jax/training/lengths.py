"""Rows by their lengths: a piece of a batch is computed in as many columns as its completions fill.

Shapes of a program are fixed, so there is one branch for each of a few widths and the piece takes the narrowest that
holds it. Prompts are put in order of their longest completion first, so that pieces (micro-batches) are of rows of a
kind. What is left out is masked: sums, and so gradients, are those of all columns.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from visa_jax.methods.base import Advantages
from visa_jax.types import Array, Batch, Rollout


def equal_widths(length: int, buckets: int) -> tuple[int, ...]:
    """Columns of each bucket, ascending: equal shares of ``length``, the last all of it."""
    return tuple(sorted({-(-length * (i + 1) // buckets) for i in range(buckets)}))


def in_bucket(fn: Callable[[int], Any], mask_BT: Array, buckets: int) -> Any:
    """``fn(width)`` of the narrowest bucket that holds every True column of ``mask_BT``.

    Results have the same shapes in all buckets. A gradient is taken inside ``fn``: taken through the branches, it would
    keep what each of them wants to remember.
    """
    widths = equal_widths(mask_BT.shape[1], buckets)
    if len(widths) == 1:
        return fn(widths[0])
    columns = jnp.max(jnp.where(mask_BT, jnp.arange(mask_BT.shape[1])[None, :] + 1, 0))
    index = jnp.searchsorted(jnp.asarray(widths), columns)
    return jax.lax.switch(index, [lambda width=width: fn(width) for width in widths])


def cut_rollout(rollout: Rollout, width: int) -> Rollout:
    """The first ``width`` columns of the completions."""
    names = ("completion_BT", "mask_BT", "logp_BT")
    return dataclasses.replace(rollout, **{name: getattr(rollout, name)[:, :width] for name in names})


def cut_batch(batch: Batch, advantages: Advantages, width: int) -> tuple[Batch, Advantages]:
    """The same of all that an update reads."""
    scored = dataclasses.replace(batch.scored, rollout=cut_rollout(batch.scored.rollout, width))
    columns = {name: getattr(batch, name)[:, :width] for name in ("logp_old_BT", "logp_ref_BT", "critic_old_BTK")}
    cut = jax.tree.map(lambda x: x[:, :width], advantages)
    return dataclasses.replace(batch, scored=scored, **columns), cut


def length_order(mask_BT: Array, prompts: int) -> Array:
    """Numbers of the prompts, those whose longest completion is short first: int32 [N]."""
    return jnp.argsort(jnp.max(jnp.sum(mask_BT, axis=1).reshape(prompts, -1), axis=1))


def take_prompts(tree: Any, order_N: Array) -> Any:
    """Every leaf (first axis N prompts, or B = N * G rows) with its prompts in that order."""

    def take(x):
        grouped = x.reshape(len(order_N), x.shape[0] // len(order_N), *x.shape[1:])
        return grouped[order_N].reshape(x.shape)

    return jax.tree.map(take, tree)
