"""Value match: how near the detected values of a completion are to the target (VISA notes 4)."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from visa_jax.ops.numerics import cosine
from visa_jax.rewards.base import Texts, text_tokens
from visa_jax.types import Array, EndId, Params, Rollout

VALUE_REWARDS = ("cos", "l2", "cos+l2")


def value_reward(detected_BM: Array, target_BM: Array, kind: str) -> Array:
    """Reward [B] in [0, 1] of detected values against a target.

    ``cos``: (1 + cos)/2, blind to strength [paper]; ``l2``: 1 - distance/2, at least 0; ``cos+l2``: their mean [ours].
    Where the target is (nearly) zero the cosine is undefined and ``l2`` takes its place.
    """
    distance_B = jnp.sqrt(jnp.sum((detected_BM - target_BM) ** 2, axis=-1))
    near_B = jnp.maximum(1 - distance_B / 2, 0.0)
    no_direction_B = jnp.sum(target_BM**2, axis=-1) < 1e-6
    angle_B = jnp.where(no_direction_B, near_B, (1 + cosine(detected_BM, target_BM)) / 2)
    return {"cos": angle_B, "l2": near_B, "cos+l2": (angle_B + near_B) / 2}[kind]


def make_value_match(detect_fn: Callable, *, end_id: EndId, kind: str) -> Callable[[Params, Rollout], Array]:
    """Reward from a detector ``detect_fn(params, tokens_BT, mask_BT) -> value_BM`` in [-1, 1]."""

    def score(params: Params, rollout: Rollout) -> Array:
        token_BT, mask_BT = text_tokens(rollout, end_id)
        target_NM = rollout.prompts.condition_NM
        target_BM = jnp.repeat(target_NM, token_BT.shape[0] // target_NM.shape[0], axis=0)
        return value_reward(detect_fn(params, token_BT, mask_BT), target_BM, kind)

    return score


def make_text_value_match(values_fn: Callable, *, kind: str) -> Callable[[Texts], np.ndarray]:
    """The same from a detector of texts, ``values_fn(texts) -> value_BM`` in [-1, 1]."""

    def score(texts: Texts) -> np.ndarray:
        return np.asarray(value_reward(jnp.asarray(values_fn(texts.completion)), jnp.asarray(texts.condition_BM), kind))

    return score
