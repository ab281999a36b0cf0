"""Published models as functions of texts: their own tokenizer, padded batches of few shapes, one program a shape.

1 ``make_text_fn``       texts, or pairs of texts -> one row of outputs each
2 ``make_window_fn``     pairs whose first text may be longer than the model's window -> one row for each window
3 ``make_text_measure``  what the closed loop asks of a text, where any of its readers is such a model

Texts that occur more than once are read once. What a model says of a text does not depend on the others in its batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from visa_jax.data.tokenizer import pad_encoded, pad_id
from visa_jax.evaluation.run import (
    PROMPT_FIELDS,
    Completions,
    Readers,
    bucket_rows,
    bucket_widths,
    by_rows,
    fit_texts,
    make_rollout,
)
from visa_jax.rewards.base import Texts, add_text_rewards, stack_rewards
from visa_jax.rollout.closed_loop import Measured
from visa_jax.types import Params, PromptBatch

SHORTEST = 32  # tokens of the narrowest bucket (ours)
BATCH = 32  # rows of a batch (ours)


def make_text_fn(fn: Callable, params: Params, tokenizer: Any, *, max_length: int, batch_size: int = BATCH) -> Callable:
    """``read(texts, seconds=None) -> [n, ...]``: ``fn`` on every text, or on every pair of a text and its second.

    Args:
      fn: ``(params, token_BT, mask_BT, type_BT) -> [B, ...]``; not yet jitted.
      tokenizer: the model's own, with its special tokens.
      max_length: tokens that the model reads; of a longer text (or of the longer one of a pair) the end is left out,
        as transformers does with ``truncation=True``.
    """
    run = _make_row_fn(fn, params, tokenizer, max_length, batch_size)

    def read(texts: Sequence[str], seconds: Sequence[str] | None = None) -> np.ndarray:
        keys = list(zip(texts, strict=True) if seconds is None else zip(texts, seconds, strict=True))
        place = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        sides = [list(side) for side in zip(*place, strict=True)]
        rows = run(tokenizer(*sides, truncation=True, max_length=max_length))
        return rows[[place[key] for key in keys]]

    return read


def make_window_fn(
    fn: Callable, params: Params, tokenizer: Any, *, max_length: int, batch_size: int = BATCH
) -> Callable:
    """``judge(premises, hypotheses) -> (rows [W, ...], owner int [W])``: a pair once for each window of its premise.

    A premise that fits is one window; a longer one is cut into overlapping windows as wide as the hypothesis leaves
    room, an eighth of ``max_length`` shared by neighbours [ours]. A hypothesis keeps half of ``max_length`` at most.
    """
    run = _make_row_fn(fn, params, tokenizer, max_length, batch_size)

    def judge(premises: Sequence[str], hypotheses: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        pairs = list(zip(premises, fit_texts(tokenizer, hypotheses, max_length // 2), strict=True))
        place = {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
        first, second = (list(side) for side in zip(*place, strict=True))
        choices = dict(truncation="only_first", max_length=max_length, stride=max_length // 8)
        encoded = tokenizer(first, second, return_overflowing_tokens=True, **choices)
        rows, owner_W = run(encoded), np.asarray(encoded["overflow_to_sample_mapping"])
        windows = [np.flatnonzero(owner_W == row) for row in range(len(place))]
        taken = [windows[place[pair]] for pair in pairs]
        return rows[np.concatenate(taken)], np.repeat(np.arange(len(pairs)), [len(each) for each in taken])

    return judge


def _make_row_fn(fn, params, tokenizer, max_length, batch_size):
    """``run(what a tokenizer gives for n rows) -> [n, ...]``, each row in the narrowest bucket that holds it."""
    program, widths = jax.jit(fn), bucket_widths(max_length, SHORTEST)

    def run(encoded) -> np.ndarray:
        arrays = pad_encoded(encoded, widths, pad_id(tokenizer))
        out = None
        for width, rows in bucket_rows(arrays[1], widths):
            made = by_rows(program, params, [array[rows][:, :width] for array in arrays], batch_size)
            out = np.zeros((len(arrays[0]), *made.shape[1:]), made.dtype) if out is None else out
            out[rows] = made
        return out

    return run


def make_text_measure(
    rewards: tuple, weights: Sequence[float], readers: Readers, texts_fn: Callable, *, batch_size: int = 64
) -> Callable[[tuple, PromptBatch, Completions], Measured]:
    """As ``run.make_measure``, where models of texts are among the readers: value and consistency are read from texts.

    Args:
      rewards: the run's, ``Reward`` and ``TextReward``.
      readers: what reads values and entailment; ``measure`` takes the models for both.
      texts_fn: ``Rollout -> Texts``.
    """
    score = stack_rewards(rewards)
    program = jax.jit(lambda params, *arrays: score(params, make_rollout(arrays)).reward_BK)
    params = tuple(reward.params for reward in rewards)

    def measure(models: tuple, prompts: PromptBatch, said: Completions) -> Measured:
        arrays = [*(np.asarray(getattr(prompts, name)) for name in PROMPT_FIELDS), said.token_BT, said.drawn_BT]
        texts: Texts = texts_fn(make_rollout(arrays))
        reward_BK = add_text_rewards(rewards, by_rows(program, params, arrays, batch_size), texts)
        forward_N, backward_N = readers.entailment(models[1], texts.context, texts.completion)
        reward_B = np.nansum(reward_BK * np.asarray(weights, np.float32)[None], axis=1)
        return Measured(readers.values(models[0], texts.completion), forward_N, backward_N, reward_B)

    return measure
