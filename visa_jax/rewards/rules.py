"""Rewards without a model: format, length, share of given words (for tests and first runs)."""

from collections.abc import Callable

import jax.numpy as jnp

from visa_jax.ops.masked import is_end
from visa_jax.rewards.base import text_tokens
from visa_jax.types import Array, EndId, Params, Rollout


def make_format(*, end_id: EndId, stop_id: int) -> Callable[[Params, Rollout], Array]:
    """-1 where a completion is empty, was cut off, or does not end a sentence before its end token; else 0."""

    def score(params: Params, rollout: Rollout) -> Array:
        token_BT, mask_BT = text_tokens(rollout, end_id)
        length_B = jnp.sum(mask_BT, axis=1)
        ended_B = jnp.any(rollout.mask_BT & is_end(rollout.completion_BT, end_id), axis=1)
        last_B = jnp.take_along_axis(token_BT, jnp.maximum(length_B - 1, 0)[:, None], axis=1)[:, 0]
        return jnp.where((length_B > 0) & ended_B & (last_B == stop_id), 0.0, -1.0)

    return score


def make_length(*, end_id: EndId, tolerance: float = 1.5) -> Callable[[Params, Rollout], Array]:
    """-max(0, |log((|y|+1)/(|y_orig|+1))| - log tolerance), lengths in tokens (VISA notes 4)."""

    def score(params: Params, rollout: Rollout) -> Array:
        _, mask_BT = text_tokens(rollout, end_id)
        source_N = jnp.sum(rollout.prompts.context_mask_NS, axis=1)
        source_B = jnp.repeat(source_N, mask_BT.shape[0] // source_N.shape[0])
        ratio_B = jnp.log((jnp.sum(mask_BT, axis=1) + 1.0) / (source_B + 1.0))
        return -jnp.maximum(jnp.abs(ratio_B) - jnp.log(tolerance), 0.0)

    return score


def make_token_share(*, tokens: tuple[int, ...], end_id: EndId) -> Callable[[Params, Rollout], Array]:
    """Share of a completion's tokens that are among ``tokens``."""

    def score(params: Params, rollout: Rollout) -> Array:
        token_BT, mask_BT = text_tokens(rollout, end_id)
        hit_BT = jnp.isin(token_BT, jnp.asarray(tokens, token_BT.dtype)) & mask_BT
        return jnp.sum(hit_BT, axis=1) / jnp.maximum(jnp.sum(mask_BT, axis=1), 1)

    return score
