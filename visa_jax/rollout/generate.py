"""Sampling G completions for each of N prompts in one pure function (jit it at the edge).

1 prefill every prompt once   2 draw token 0 from the prompt's last hidden state
3 feed a token, draw the next, until all rows have ended or ``max_new_tokens`` are there
"""

import jax
import jax.numpy as jnp

from visa_jax.rollout.sampling import sample_token
from visa_jax.types import LanguageModel, PromptBatch, Rollout


def generate(
    lm: LanguageModel,
    params,
    prompts: PromptBatch,
    key: jax.Array,
    *,
    group_size: int,
    max_new_tokens: int,
    temperature=1.0,
    top_k: int = 0,
    top_p=1.0,
    min_p=0.0,
    end_id: int | tuple[int, ...],
    pad_id: int,
    noise_B: jax.Array | None = None,
) -> Rollout:
    """Completions [B, T] with B = N * group_size and T = max_new_tokens.

    The end token is kept and counted; after it stand ``pad_id``, mask False and logp 0. ``logp_BT``
    is at the sampling temperature, before truncation (see ``sample_token``). Step t draws with
    ``fold_in(key, t)``. Any of several end ids ends a row. ``temperature``, ``top_p`` and ``min_p``
    may be traced; the rest is static. ``noise_B``: rows with equal entries meet the same noise (``sample_token``).
    """
    prefix = lm.prefill(params, prompts.prompt_NL, prompts.prompt_mask_NL, prompts.condition_NM)
    ends = jnp.asarray(end_id, jnp.int32).reshape(1, -1)
    rows, length = prompts.prompt_NL.shape[0] * group_size, max_new_tokens

    def draw(logits_BV, step):
        choice = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, noise_B=noise_B)
        return sample_token(jax.random.fold_in(key, step), logits_BV, **choice)

    def write(state, step, token_B, logp_B):
        cache, _, alive_B, tokens_BT, mask_BT, logp_BT = state
        token_B = jnp.where(alive_B, token_B, pad_id)
        tokens_BT, mask_BT, logp_BT = (
            jax.lax.dynamic_update_slice(array, column[:, None], (0, step))
            for array, column in ((tokens_BT, token_B), (mask_BT, alive_B), (logp_BT, jnp.where(alive_B, logp_B, 0)))
        )
        return cache, token_B, alive_B & jnp.all(token_B[:, None] != ends, axis=1), tokens_BT, mask_BT, logp_BT

    unstacked = lm.unstack(params)

    def advance(carry):
        step, (cache, token_B, *rest) = carry
        hidden_BD, cache = lm.decode(unstacked, prefix, cache, token_B, step - 1)
        return step + 1, write((cache, token_B, *rest), step, *draw(lm.logits(params, hidden_BD), step))

    state = (
        lm.init_cache(prefix, rows, max(length - 1, 1)),  # the last token is never fed
        jnp.full(rows, pad_id, jnp.int32),
        jnp.ones(rows, bool),
        jnp.full((rows, length), pad_id, jnp.int32),
        jnp.zeros((rows, length), bool),
        jnp.zeros((rows, length), jnp.float32),
    )
    first_BV = jnp.repeat(lm.logits(params, prefix.last_hidden_ND), group_size, axis=0)
    state = write(state, 0, *draw(first_BV, 0))
    _, state = jax.lax.while_loop(
        lambda carry: (carry[0] < length) & jnp.any(carry[1][2]), advance, (jnp.asarray(1, jnp.int32), state)
    )
    _, _, _, tokens_BT, mask_BT, logp_BT = state
    return Rollout(prompts=prompts, completion_BT=tokens_BT, mask_BT=mask_BT, logp_BT=logp_BT)
