"""What a method is: four pure functions, and the records that pass between them.

Called in this order: ``condition`` before sampling (``data/pool.py``), ``combine`` once on the scored rows and
``loss`` for every gradient step (``training/update.py``). A method never sees a
model, a text or a mesh.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from visa_jax.types import Array, record


@record
class Advantages:
    """What ``combine`` hands to ``loss``: one mixed advantage, and what the critics should learn."""

    adv_BT: Array  # float32: already mixed over the K signals, 0 where masked
    return_BTK: Array  # float32: regression targets of the critic heads; last axis 0 without critics


@record
class PolicyOutput:
    """What the policy says about the rows of a batch under the parameters being differentiated."""

    logp_BT: Array  # float32, under the sampling temperature
    critic_BTK: Array  # float32; last axis 0 without critics


class Method(NamedTuple):
    """One way from condition vectors and K rewards to a policy loss.

    ``signals`` is the number of critic heads that the method wants on the policy's trunk (0 = none).
    """

    name: str
    signals: int
    init: Callable[..., Any]  # (sample_reward_SK) -> state; the samples fit the normaliser
    condition: Callable[..., Array]  # (key, anchor_NM) -> condition_NM; the anchor is v_orig (VISA) or ignored
    combine: Callable[..., tuple]  # (state, Batch) -> (state, Advantages, metrics of float32 [])
    loss: Callable[..., tuple]  # (PolicyOutput, Batch, Advantages) -> (WeightedSum, metrics of WeightedSum)


def last_token(mask_BT: Array) -> Array:
    """One-hot [B, T] of the last True entry of each row; all False where a row has none."""
    later_BT = jnp.cumsum(mask_BT[:, ::-1], axis=1)[:, ::-1]
    return mask_BT & (later_BT == 1)


def reward_metrics(reward_BK: Array, names: tuple[str, ...], group_size: int) -> dict[str, Array]:
    """Mean and deviation of each reward, and the share of groups in which a reward cannot teach."""
    metrics = {}
    for k, name in enumerate(names):
        column_B = reward_BK[:, k]
        metrics[f"rewards/{name}/mean"] = jnp.nanmean(column_B)
        metrics[f"rewards/{name}/std"] = jnp.nanstd(column_B)
    if group_size > 1:
        grouped_NGK = reward_BK.reshape(-1, group_size, reward_BK.shape[1])
        flat_N = jnp.all(jnp.nanstd(grouped_NGK, axis=1) < 1e-6, axis=-1)
        metrics["frac_reward_zero_std"] = jnp.mean(flat_N)
    return metrics
