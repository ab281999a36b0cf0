"""The supervised tasks: what each part of the two methods learns, as ``Task`` records for ``fit``.

Batches are dicts of numpy arrays: ``token``/``mask`` are [B, T]; pairs of texts have ``context``/``context_mask``
[B, S] too.
"""

from collections.abc import Callable

import jax.numpy as jnp

from visa_jax.losses import entailment, next_token, shift_regression, value_regression
from visa_jax.ops.numerics import token_logps
from visa_jax.rollout import completion_logps
from visa_jax.types import Array, LanguageModel, Params, PromptBatch, Rollout, WeightedSum


def language_loss(lm: LanguageModel) -> Callable:
    """Next-token loss over packed documents."""

    def loss(params: Params, batch: dict) -> tuple[WeightedSum, dict]:
        hidden_BTD = lm.forward(params, batch["token"][:, :-1], batch["mask"][:, :-1])
        logp_BT = token_logps(lm.logits(params, hidden_BTD), batch["token"][:, 1:])
        return next_token(logp_BT, batch["mask"][:, 1:]), {}

    return loss


def completion_loss(lm: LanguageModel) -> Callable:
    """Next-token loss of a reference completion behind its prompt (SFT); the prompt itself is not learned."""

    def loss(params: Params, batch: dict) -> tuple[WeightedSum, dict]:
        context, mask = batch["context"], batch["context_mask"]
        nothing = jnp.zeros((context.shape[0], 0))
        prompts = PromptBatch(
            prompt_NL=context, prompt_mask_NL=mask, condition_NM=nothing, context_NS=context, context_mask_NS=mask
        )
        given = Rollout(
            prompts=prompts,
            completion_BT=batch["token"],
            mask_BT=batch["mask"],
            logp_BT=jnp.zeros(batch["token"].shape),
        )
        logp_BT, _ = completion_logps(lm, params, given)
        return next_token(logp_BT, batch["mask"]), {}

    return loss


def detector_loss(detect_fn: Callable) -> Callable:
    """Squared error plus a cosine term (VISA notes 3), plus cross-entropy of presence; labels ``value`` [B, 10].

    Presence is what a multi-label data set would give; it is learned first and tells the stance where to look.
    """

    def loss(params: Params, batch: dict) -> tuple[WeightedSum, dict]:
        found = detect_fn(params, batch["token"], batch["mask"])
        value = value_regression(found.value_BM, batch["value"])
        return _with_presence("value_loss", value, found.presence_BM, batch["value"])

    return loss


def translator_loss(detect_fn: Callable) -> Callable:
    """Huber plus sign loss on twice the reading (VISA notes 3), plus presence; labels ``shift`` [B, 10]."""

    def loss(params: Params, batch: dict) -> tuple[WeightedSum, dict]:
        found = detect_fn(params, batch["token"], batch["mask"])
        shift = shift_regression(2 * found.value_BM, batch["shift"])
        return _with_presence("shift_loss", shift, found.presence_BM, batch["shift"])

    return loss


def _with_presence(name: str, read: WeightedSum, presence_BM: Array, label_BM: Array) -> tuple[WeightedSum, dict]:
    """A loss of readings, called ``name``, and the cross-entropy of which values are there at all."""
    presence_BM = jnp.clip(presence_BM, 1e-6, 1 - 1e-6)
    logit_BM = jnp.log(presence_BM) - jnp.log1p(-presence_BM)
    presence = entailment(logit_BM, label_BM != 0)
    total = read.total + presence.mean() * read.weight
    return WeightedSum(total=total, weight=read.weight), {name: read, "presence_loss": presence}


def analyzer_loss(encode_fn: Callable, compare_fn: Callable) -> Callable:
    """Cross-entropy of claim and entailment at each sentence end; labels ``label`` [B, T] in {-1, 0, 1}, ``stop`` mask.

    -1 = no factual claim, 0 = claim that the premise does not entail, 1 = entailed.
    """

    def loss(params: Params, batch: dict) -> tuple[WeightedSum, dict]:
        sides = [(batch[f"{p}token"], batch[f"{p}mask"]) for p in ("premise_", "")]
        premise, hypothesis = ((*side, encode_fn(params, *side)) for side in sides)
        logits = compare_fn(params, premise, hypothesis)
        is_claim_BT = batch["label"] >= 0
        claim = entailment(logits.claim_BT, is_claim_BT, batch["stop"])
        entailed = entailment(logits.entailed_BT, batch["label"] > 0, batch["stop"] & is_claim_BT)
        return claim + entailed, {"claim_loss": claim, "entailment_loss": entailed}

    return loss


def reward_model_loss(score_fn: Callable) -> Callable:
    """Squared error of a scalar reward read from question and answer; labels ``reward`` [B]."""

    def loss(params: Params, batch: dict) -> tuple[WeightedSum, dict]:
        predicted_B = score_fn(params, batch["context"], batch["context_mask"], batch["token"], batch["mask"])
        return squared_error(predicted_B, batch["reward"]), {}

    return loss


def classifier_loss(classify_fn: Callable, loss_fn: Callable) -> Callable:
    """``loss_fn(logits_BC, label) -> WeightedSum`` of a published model's outputs; ``type``: kinds of tokens."""

    def loss(params: Params, batch: dict) -> tuple[WeightedSum, dict]:
        return loss_fn(classify_fn(params, batch["token"], batch["mask"], batch["type"]), batch["label"]), {}

    return loss


def squared_error(predicted_B: Array, label_B: Array) -> WeightedSum:
    """(predicted - label)², over rows."""
    error_B = (predicted_B - label_B) ** 2
    return WeightedSum(total=jnp.sum(error_B), weight=jnp.float32(error_B.shape[0]))
