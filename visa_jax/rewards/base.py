"""What a reward is, and how K of them become ``reward_BK``.

Rewards see the completion and the context (y_orig or the bare question), never the text of the condition.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from visa_jax.types import Array, Params, Rollout, Scored


class Reward(NamedTuple):
    """One named reward; ``score(params, rollout) -> reward_B``, NaN where it does not apply."""

    name: str
    score: Callable[[Params, Rollout], Array]
    params: Params  # frozen parameters of the model behind it, () for a rule


def stack_rewards(rewards: tuple[Reward, ...]) -> Callable[[tuple, Rollout], Scored]:
    """``score(params of every reward, rollout) -> Scored``: pure, to be jitted by the caller."""

    def score(params: tuple, rollout: Rollout) -> Scored:
        columns = [reward.score(p, rollout) for reward, p in zip(rewards, params, strict=True)]
        return Scored(rollout=rollout, reward_BK=jnp.stack(columns, axis=-1))

    return score


def text_tokens(rollout: Rollout, end_id: int) -> tuple[Array, Array]:
    """Completion ids and mask [B, T] without the end token: what a reader of the text sees."""
    return rollout.completion_BT, rollout.mask_BT & (rollout.completion_BT != end_id)
