"""Sampling G completions for each of N prompts in one pure function (jit it at the edge).

1 prefill every prompt once   2 draw token 0 from the prompt's last hidden state
3 feed a token, draw the next, until all rows have ended or ``max_new_tokens`` are there

``generate`` is ``begin`` and ``advance``; ``slots.py`` puts new prompts between calls of ``advance``.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from visa_jax.ops.masked import is_end
from visa_jax.rollout.sampling import is_off, mark, sample_token
from visa_jax.types import Array, EndId, LanguageModel, Params, Prefix, PromptBatch, Rollout, record


@record
class Rows:
    """Rows that are being drawn, B = N * G; a leaf's leading axis is N or a multiple of it, a scalar step apart."""

    prefix: Prefix  # without keys and values, which the cache holds
    cache: Any
    token_B: Array  # int32: the last one drawn
    step: Array  # int32: tokens drawn so far; [] where all rows are at one step, else [B]
    alive_B: Array  # bool: neither ended nor full
    noise_B: Array | None  # int32, see ``sample_token``; None: one key for all rows, which have to be at one step
    seen_BV: Array | None  # bool, tokens of prompt and completion; None where there is no repetition penalty
    completion_BT: Array
    mask_BT: Array
    logp_BT: Array


def generate(
    lm: LanguageModel,
    params: Params,
    prompts: PromptBatch,
    key: jax.Array,
    *,
    group_size: int,
    max_new_tokens: int,
    temperature=1.0,
    top_k: int = 0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    end_id: EndId,
    pad_id: int,
    noise_B: jax.Array | None = None,
    places: tuple[jax.Array, int] | None = None,
    kv_cache_dtype: str = "auto",
) -> Rollout:
    """Completions [B, T] with B = N * group_size and T = max_new_tokens.

    The end token is kept and counted; after it stand ``pad_id``, mask False and logp 0. ``logp_BT``
    is at the sampling temperature, before penalty and truncation (see ``sample_token``): with either
    it is what an update recomputes, and not the probability of the draw. Step t draws with
    ``fold_in(key, t)``. Any of several end ids ends a row. ``temperature``, ``top_p``, ``min_p`` and
    ``repetition_penalty`` may be traced; the rest is static. ``noise_B``: rows with equal entries meet
    the same noise (``sample_token``). ``places``: these rows' places in a larger batch, whose noise they meet.
    ``kv_cache_dtype`` "int8" holds keys and values in eight bits, of
    prompts and completions: ``logp_BT`` is then that of a slightly other model than an update's.
    """
    choice = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty)
    choice |= dict(end_id=end_id, pad_id=pad_id, places=places)
    sizes = dict(group_size=group_size, max_new_tokens=max_new_tokens, kv_cache_dtype=kv_cache_dtype)
    rows = begin(lm, params, prompts, key, noise_B=noise_B, **sizes, **choice)
    rows = advance(lm, params, lm.unstack(params), rows, key, **choice)
    return Rollout(prompts=prompts, completion_BT=rows.completion_BT, mask_BT=rows.mask_BT, logp_BT=rows.logp_BT)


def begin(
    lm: LanguageModel,
    params: Params,
    prompts: PromptBatch,
    key: jax.Array,
    *,
    group_size: int,
    max_new_tokens: int,
    noise_B: jax.Array | None = None,
    kv_cache_dtype: str = "auto",
    width: int = 0,
    **choice,
) -> Rows:
    """Prefill and the first token of each row. Arguments are those of ``generate``; ``width``: prompt columns to hold
    at least, so that prompts of other widths can follow."""
    prefix = lm.prefill(params, prompts.prompt_NL, prompts.prompt_mask_NL, prompts.condition_NM)
    prefix = _widened(prefix, width - prompts.prompt_NL.shape[1])
    rows, length = prompts.prompt_NL.shape[0] * group_size, max_new_tokens
    logits_BV = jnp.repeat(lm.logits(params, prefix.last_hidden_ND), group_size, axis=0)
    seen_BV = None
    if not is_off(choice["repetition_penalty"], 1.0):
        prompt = (jnp.repeat(x, group_size, axis=0) for x in (prompts.prompt_NL, prompts.prompt_mask_NL))
        seen_BV = mark(jnp.zeros(logits_BV.shape, bool), *prompt)
    blank = Rows(
        prefix=dataclasses.replace(prefix, key_XNLHC=None, value_XNLHC=None),
        cache=lm.init_cache(prefix, rows, max(length - 1, 1), kv_cache_dtype),  # the last token is never fed
        token_B=jnp.full(rows, choice["pad_id"], jnp.int32),
        step=jnp.zeros((), jnp.int32),
        alive_B=jnp.ones(rows, bool),
        noise_B=noise_B,
        seen_BV=seen_BV,
        completion_BT=jnp.full((rows, length), choice["pad_id"], jnp.int32),
        mask_BT=jnp.zeros((rows, length), bool),
        logp_BT=jnp.zeros((rows, length), jnp.float32),
    )
    return _draw(blank, logits_BV, key, **choice)


def advance(
    lm: LanguageModel,
    params: Params,
    unstacked: Params,
    rows: Rows,
    key: jax.Array,
    *,
    free=None,
    most_steps=None,
    **choice,
) -> Rows:
    """Feed and draw, each alive row a token a step, until ``free`` of the N groups have no row alive.

    ``unstacked`` is ``lm.unstack(params)``. ``free``: None waits for all. ``most_steps``: None sets no limit. Both may
    be traced.
    """
    groups = rows.prefix.mask_NL.shape[0]

    def goes_on(carry):
        steps, rows = carry
        busy = jnp.sum(jnp.any(rows.alive_B.reshape(groups, -1), axis=1))
        waits = busy > (0 if free is None else groups - free)
        return waits if most_steps is None else waits & (steps < most_steps)

    def feed(carry):
        steps, rows = carry
        hidden_BD, cache = lm.decode(unstacked, rows.prefix, rows.cache, rows.token_B, rows.step - 1)
        rows = _draw(dataclasses.replace(rows, cache=cache), lm.logits(params, hidden_BD), key, **choice)
        return steps + 1, rows

    return jax.lax.while_loop(goes_on, feed, (jnp.zeros((), jnp.int32), rows))[1]


def _draw(rows: Rows, logits_BV, key, *, end_id, pad_id, **choice) -> Rows:
    """``rows`` with one token more where alive."""
    length = rows.completion_BT.shape[1]
    step_keys = jax.random.fold_in(key, rows.step) if rows.step.ndim == 0 else _fold_in_each(key, rows.step)
    token_B, logp_B = sample_token(step_keys, logits_BV, seen_BV=rows.seen_BV, noise_B=rows.noise_B, **choice)
    alive_B, token_B = rows.alive_B, jnp.where(rows.alive_B, token_B, pad_id)
    here_BT = jnp.arange(length)[None, :] == rows.step.reshape(-1, 1)
    new_columns = dict(completion_BT=token_B, mask_BT=alive_B, logp_BT=jnp.where(alive_B, logp_B, 0))
    written = {name: jnp.where(here_BT, new[:, None], getattr(rows, name)) for name, new in new_columns.items()}
    seen_BV = rows.seen_BV
    if seen_BV is not None:
        seen_BV = mark(seen_BV, token_B[:, None], alive_B[:, None])
    return dataclasses.replace(
        rows,
        token_B=token_B,
        step=rows.step + 1,
        alive_B=alive_B & ~is_end(token_B, end_id) & (rows.step + 1 < length),
        seen_BV=seen_BV,
        **written,
    )


def _widened(prefix: Prefix, columns: int) -> Prefix:
    """``prefix`` with empty columns behind its own."""
    if columns <= 0:
        return prefix
    wide = {
        name: jnp.pad(leaf, [(0, columns if axis == at else 0) for axis in range(leaf.ndim)])
        for name, at in (("key_XNLHC", 2), ("value_XNLHC", 2), ("mask_NL", 1))
        for leaf in [getattr(prefix, name)]
    }
    return dataclasses.replace(prefix, **wide)


def _fold_in_each(key, step_B):
    return jax.vmap(jax.random.fold_in, (None, 0))(key, step_B)
