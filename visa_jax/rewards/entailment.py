"""Consistency by entailment in both directions: the Fact Analyzer as a reward (VISA notes 4).

F = p(y_orig => y) is low where facts were invented, B = p(y => y_orig) where facts were omitted; C = (F + B)/2.
A hypothesis is judged sentence by sentence: the analyzer says at each sentence end whether the sentence makes
a claim and whether the premise entails it; p is the mean over the claims.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from visa_jax.rewards.base import text_tokens
from visa_jax.types import Array, EndId, Params, Rollout


def claim_mean(claim_BT: Array, entailed_BT: Array, stop_BT: Array) -> Array:
    """Entailment probability [B] from the sentence logits at the sentence ends ``stop_BT``.

    The mean over the claims, each counted with its probability of being one. A hypothesis without any claim scores
    0: dropping all facts must not look faithful.
    """
    weight_BT = jax.nn.sigmoid(claim_BT) * stop_BT
    claims_B = jnp.sum(weight_BT, axis=1)
    supported_B = jnp.sum(weight_BT * jax.nn.sigmoid(entailed_BT), axis=1)
    return jnp.where(claims_B < 0.5, 0.0, supported_B / jnp.maximum(claims_B, 0.5))


def make_entailment(encode_fn: Callable, compare_fn: Callable, *, stop_id: int) -> Callable:
    """``(F, B) = entailment(params, source_NS, source_mask_NS, text_BT, mask_BT)``, each [B] in [0, 1].

    F = p(source => text), B = p(text => source); the source is read once for the G texts that share it.
    ``encode_fn`` and ``compare_fn`` are those of ``models/readers.py:make_analyzer``.
    """

    def entailment(params: Params, source_NS, source_mask_NS, text_BT, mask_BT) -> tuple[Array, Array]:
        group = text_BT.shape[0] // source_NS.shape[0]
        encoded_NSD = encode_fn(params, source_NS, source_mask_NS)
        source = tuple(jnp.repeat(x, group, axis=0) for x in (source_NS, source_mask_NS, encoded_NSD))
        text = (text_BT, mask_BT, encode_fn(params, text_BT, mask_BT))
        return one_way(params, source, text), one_way(params, text, source)

    def one_way(params: Params, premise: tuple, hypothesis: tuple) -> Array:
        logits = compare_fn(params, premise, hypothesis)
        return claim_mean(logits.claim_BT, logits.entailed_BT, (hypothesis[0] == stop_id) & hypothesis[1])

    return entailment


def make_consistency(entailment_fn: Callable, *, end_id: EndId) -> Callable[[Params, Rollout], Array]:
    """Reward C = (F + B)/2 in [0, 1] between the context (y_orig) and the completion."""

    def score(params: Params, rollout: Rollout) -> Array:
        prompts = rollout.prompts
        forward_B, backward_B = entailment_fn(
            params, prompts.context_NS, prompts.context_mask_NS, *text_tokens(rollout, end_id)
        )
        return (forward_B + backward_B) / 2

    return score
