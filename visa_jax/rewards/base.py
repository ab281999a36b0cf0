"""What a reward is, and how K of them become ``reward_BK``.

Rewards see the completion and the context (y_orig or the bare question), never the text of the condition.

``Reward``      reads the policy's ids, in a jitted program
``TextReward``  reads texts, on the host: for models with a tokenizer of their own
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from visa_jax.ops.masked import is_end
from visa_jax.parallel.rows import lay_rows
from visa_jax.types import Array, EndId, Params, Rollout, Scored


class Reward(NamedTuple):
    """One named reward; ``score(params, rollout) -> reward_B``, NaN where it does not apply."""

    name: str
    score: Callable[[Params, Rollout], Array]
    params: Params  # frozen parameters of the model behind it, () for a rule


class Texts(NamedTuple):
    """B rows of a rollout as texts."""

    context: list[str]  # y_orig or the bare question, once for each row
    completion: list[str]  # without the end token
    condition_BM: np.ndarray


class TextReward(NamedTuple):
    """One named reward of texts; ``score(texts) -> float [B]``, NaN where it does not apply."""

    name: str
    score: Callable[[Texts], np.ndarray]
    params: Params = ()  # none travel with the programs of a run


def stack_rewards(rewards: tuple[Reward | TextReward, ...]) -> Callable[[tuple, Rollout], Scored]:
    """``score(params of every reward, rollout) -> Scored``: pure, to be jitted by the caller.

    The columns of text rewards are NaN, until ``score_texts`` fills them.
    """

    def score(params: tuple, rollout: Rollout) -> Scored:
        unread_B = jnp.full(rollout.completion_BT.shape[0], jnp.nan, jnp.float32)
        columns = [
            unread_B if isinstance(reward, TextReward) else reward.score(p, rollout)
            for reward, p in zip(rewards, params, strict=True)
        ]
        return Scored(rollout=rollout, reward_BK=jnp.stack(columns, axis=-1))

    return score


def score_texts(
    rewards: tuple[Reward | TextReward, ...],
    scored: Scored,
    texts_fn: Callable[[Rollout], Texts] | None,
    take_rows: Callable = lambda rows: rows,
) -> Scored:
    """``scored`` with the columns of the text rewards; on the host, between the programs of a step.

    Args:
      texts_fn: needed where there is a text reward.
      take_rows: a tree of arrays as a program left them -> the same with B (or N) rows first, of several processes
        each its own.

    Returns:
      The rewards, laid out as they were; without text rewards ``scored`` itself.
    """
    if not any(isinstance(reward, TextReward) for reward in rewards):
        return scored
    unread = scored.reward_BK
    filled_BK = add_text_rewards(rewards, take_rows(unread), texts_fn(take_rows(scored.rollout)))
    filled = filled_BK.reshape(-1, *unread.shape[1:])  # under pmap a device axis is first
    return dataclasses.replace(scored, reward_BK=lay_rows(filled, unread.sharding, len(unread)))


def add_text_rewards(rewards: tuple[Reward | TextReward, ...], reward_BK: np.ndarray, texts: Texts) -> np.ndarray:
    """A copy of ``reward_BK`` in which the columns of the text rewards are theirs."""
    reward_BK = np.array(reward_BK)
    for k, reward in enumerate(rewards):
        if isinstance(reward, TextReward):
            reward_BK[:, k] = reward.score(texts)
    return reward_BK


def text_tokens(rollout: Rollout, end_id: EndId) -> tuple[Array, Array]:
    """Completion ids and mask [B, T] without the end token: what a reader of the text sees."""
    return rollout.completion_BT, rollout.mask_BT & ~is_end(rollout.completion_BT, end_id)


def says(text: str) -> bool:
    """Whether a text holds a letter or a digit."""
    return any(map(str.isalnum, text))
