"""Learned scalar rewards that read the question and the completion (MOC notes 6 and 10)."""

from collections.abc import Callable

import numpy as np

from visa_jax.rewards.base import Texts, text_tokens
from visa_jax.types import Array, EndId, Params, Rollout


def make_learned_reward(score_fn: Callable, *, end_id: EndId) -> Callable[[Params, Rollout], Array]:
    """A reward model ``score_fn(params, question_NS, mask_NS, answer_BT, mask_BT) -> reward_B`` as a reward.

    It sees the bare question, never the preference: a reward that reads the condition could be talked to.
    """

    def score(params: Params, rollout: Rollout) -> Array:
        prompts = rollout.prompts
        return score_fn(params, prompts.context_NS, prompts.context_mask_NS, *text_tokens(rollout, end_id))

    return score


def make_text_reward(read_fn: Callable) -> Callable[[Texts], np.ndarray]:
    """The same of texts: ``read_fn(questions, answers) -> reward_B``."""

    def score(texts: Texts) -> np.ndarray:
        return read_fn(texts.context, texts.completion)

    return score
