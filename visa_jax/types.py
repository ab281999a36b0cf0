"""The records that travel between stages, and the key to the letters in array names.

Axes, everywhere in the package (``reward_BK`` is an array of shape ``[B, K]``):

    N  prompts in a batch            K  rewards (objectives) or signals
    G  completions per prompt        M  entries of the condition vector
    B  rows = N * G, row b belongs to prompt b // G
    L  prompt tokens                 T  completion tokens (or tokens of a plain text)
    D  model width                   V  vocabulary
    H, Q, C  key/value heads, query heads, width of one head

A mask is True where a token counts. A reward is always "higher is better". Each stage
adds one frozen record and never edits the record it was given:

    PromptBatch -> Rollout -> Scored -> Batch -> (TrainState, metrics)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# Schwartz's ten basic values, in the order of every value vector (the order is ours).
VALUES = (
    "Self-Direction",
    "Stimulation",
    "Hedonism",
    "Achievement",
    "Power",
    "Security",
    "Conformity",
    "Tradition",
    "Benevolence",
    "Universalism",
)

Array = jax.Array
EndId = int | tuple[int, ...]  # the token that ends a completion, or several, any of which does
Params = Any  # a pytree (nested dict) of arrays: what is trained


def record(cls):
    """Make ``cls`` a frozen dataclass that is also a pytree."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, kw_only=True)(cls))


@record
class WeightedSum:
    """A mean that has not been divided yet; sums of these are exact over micro-batches and devices."""

    total: Array  # float32 []
    weight: Array  # float32 []

    def __add__(self, other: "WeightedSum") -> "WeightedSum":
        return WeightedSum(total=self.total + other.total, weight=self.weight + other.weight)

    def mean(self) -> Array:
        """total / weight, and 0 where nothing was counted."""
        import jax.numpy as jnp

        return self.total / jnp.where(self.weight == 0, 1, self.weight)


@record
class PromptBatch:
    """N tokenised prompts with the condition that each of them states."""

    prompt_NL: Array  # int32: ids, right padded
    prompt_mask_NL: Array  # bool
    condition_NM: Array  # float32: target (VISA) or preference (MOC)
    context_NS: Array  # int32: what rewards see beside a completion: y_orig (VISA) or the bare question (MOC)
    context_mask_NS: Array  # bool


@record
class Rollout:
    """G sampled completions for each prompt."""

    prompts: PromptBatch
    completion_BT: Array  # int32: ids; after the end token: pad
    mask_BT: Array  # bool: True up to and including the end token
    logp_BT: Array  # float32: log-probability under the sampling temperature, 0 where masked


@record
class Scored:
    """A rollout with K rewards; nothing is mixed yet. NaN = reward not applicable."""

    rollout: Rollout
    reward_BK: Array  # float32


@record
class Batch:
    """What one update reads: scored rows, log-probabilities of old and reference policy, old critic."""

    scored: Scored
    logp_old_BT: Array  # float32
    logp_ref_BT: Array  # float32
    critic_old_BTK: Array  # float32: K critic heads before the update (last axis 0 where there is no critic)


@record
class TrainState:
    """Everything that a step changes."""

    step: Array  # int32 []
    params: Params
    opt_state: Any
    method_state: Any  # normaliser, KL controller ...: belongs to the method
    key: Array  # typed PRNG key of the run; steps use fold_in(key, step)


@record
class Prefix:
    """Keys and values of N prompts, computed once and shared by the G completions of each."""

    key_XNLHC: Array  # X = layers
    value_XNLHC: Array
    mask_NL: Array  # bool
    last_hidden_ND: Array  # hidden state at the last valid prompt token: it predicts completion token 0


class LanguageModel(NamedTuple):
    """The pure functions of a decoder; rollout, losses and methods take these and never a model class.

    Positions count valid tokens, so padding on either side changes nothing.
    """

    forward: Callable  # (params, tokens_BT, mask_BT) -> hidden_BTD, causal
    prefill: Callable  # (params, prompt_NL, mask_NL, condition_NM=None) -> Prefix
    # (params, prompt_NL, mask_NL, condition_NM, completion_BT, mask_BT) -> (hidden_BTD, last_hidden_ND), teacher forced
    # for B = N * G rows: what ``decode`` behind ``prefill`` gives, in one pass
    extend: Callable
    init_cache: Callable  # (Prefix, rows B, length T, dtype="auto" | "int8") -> cache pytree: prefix and own keys
    decode: Callable  # (params, Prefix, cache, token_B, step or step_B) -> (hidden_BD, cache); of Prefix only the mask
    logits: Callable  # (params, hidden_...D, head=None) -> logits_...V float32
    head: Callable = lambda params: None  # params -> what ``logits`` takes, laid out once for a loop of calls on a mesh
    unstack: Callable = lambda params: params  # params as a loop over ``decode`` reads them fastest
