"""Slots that take new prompts while others are still drawn, so that one long completion does not hold a batch.

1 ``empty``  slots that hold nothing
2 ``place``  a prompt into a slot: prefilled alone, with the first token of each of its G completions
3 ``generate.advance`` until a slot is free; the caller takes what it holds and places the next prompt

Pure functions; ``evaluation/queue.py`` jits them and is the queue. The arguments behind * are those of ``generate``.
"""

import dataclasses

import jax
import jax.numpy as jnp

from visa_jax.rollout.generate import Rows, begin
from visa_jax.types import LanguageModel, Params, PromptBatch


def empty(lm: LanguageModel, params: Params, prompt: PromptBatch, key: jax.Array, *, slots: int, **settings) -> Rows:
    """``slots`` slots of ``group_size`` rows, none alive, as wide as ``settings["width"]``; ``prompt`` tells shapes."""
    one = jax.eval_shape(lambda *args: _alone(lm, *args, **settings), params, prompt, 0, key)
    return jax.tree.map(lambda leaf: jnp.zeros((slots * leaf.shape[0], *leaf.shape[1:]), leaf.dtype), one)


def place(
    lm: LanguageModel, params: Params, rows: Rows, slot, prompt: PromptBatch, number, key: jax.Array, **settings
) -> Rows:
    """``rows`` with a prompt (N = 1, any width up to that of ``rows``) in ``slot``, whatever was there before.

    ``slot`` and ``number`` may be traced. Completion g meets the noise of row number · G + g, as it would in
    ``generate`` with ``noise_B = arange(B)``.
    """
    fresh = _alone(lm, params, prompt, number, key, width=rows.prefix.mask_NL.shape[1], **settings)

    def put(old, new):
        return jax.lax.dynamic_update_slice_in_dim(old, new, slot * new.shape[0], axis=0)

    return jax.tree.map(put, rows, fresh)


def _alone(lm, params, prompt, number, key, *, group_size, **settings):
    noise_G = number * group_size + jnp.arange(group_size)
    fresh = begin(lm, params, prompt, key, group_size=group_size, noise_B=noise_G, **settings)
    return dataclasses.replace(fresh, step=jnp.full(group_size, fresh.step))  # slots are at steps of their own
