"""Log-probabilities of given completions, differentiable in the parameters."""

import jax
import jax.numpy as jnp

from visa_jax.ops.numerics import token_logps
from visa_jax.rollout.sampling import scale_logits
from visa_jax.types import LanguageModel, Rollout


def completion_states(lm: LanguageModel, params, rollout: Rollout) -> jax.Array:
    """[B, T, D]: the hidden states that predict each completion token; the prompt is computed once per group."""
    prompts = rollout.prompts
    prefix = lm.prefill(params, prompts.prompt_NL, prompts.prompt_mask_NL, prompts.condition_NM)
    hidden_BTD = lm.extend(params, prefix, rollout.completion_BT, rollout.mask_BT)
    group_size = hidden_BTD.shape[0] // prefix.last_hidden_ND.shape[0]
    first_BD = jnp.repeat(prefix.last_hidden_ND, group_size, axis=0)
    return jnp.concatenate([first_BD[:, None], hidden_BTD[:, :-1]], axis=1)


def completion_logps(lm: LanguageModel, params, rollout: Rollout, *, temperature=1.0, chunk: int | None = None):
    """``(logp_BT, state_BTD)`` of a rollout's completions at ``temperature`` (0 counts as 1).

    Args:
        chunk: rows whose logits exist at once (recomputed in the backward pass), a divisor of B;
            None holds all of [B, T, V].

    Returns:
        logp_BT: float32, 0 where masked.
        state_BTD: the hidden states that predict each token, for critic heads.
    """
    state_BTD = completion_states(lm, params, rollout)

    def score(pair):
        state, token = pair
        return token_logps(scale_logits(lm.logits(params, state), temperature), token)

    pairs = (state_BTD, rollout.completion_BT)
    if chunk is None:
        logp_BT = score(pairs)
    else:
        rows, length = rollout.completion_BT.shape
        if rows % chunk:
            raise ValueError(f"chunk = {chunk} must divide the {rows} rows")
        pieces = jax.tree.map(lambda x: x.reshape(rows // chunk, chunk, *x.shape[1:]), pairs)
        logp_BT = jax.lax.map(jax.checkpoint(score), pieces).reshape(rows, length)
    return jnp.where(rollout.mask_BT, logp_BT, 0.0), state_BTD
