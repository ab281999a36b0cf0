"""The pool of questions and source texts that VISA and MOC draw their prompts from, encoded once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from visa_jax.data.rows import prompt_batch
from visa_jax.data.source import Source
from visa_jax.types import PromptBatch


class Pool(NamedTuple):
    """n questions with their source answers; ``value_PM`` are the detector's readings of the answers."""

    questions: Sequence[str]
    answers: Sequence[str]
    value_PM: np.ndarray  # float32 [n, 10]


def draw_rows(key_data: np.ndarray, size: int, n: int) -> np.ndarray:
    """n row numbers below ``size`` from the words of a PRNG key."""
    return np.random.default_rng(np.asarray(key_data, np.uint32).ravel().tolist()).integers(size, size=n)


def visa_prompts(source: Source, pool: Pool, rows: np.ndarray, target_NM: np.ndarray) -> PromptBatch:
    """Prompts that ask to rewrite rows of the pool towards targets; rewards see the source answer."""
    answers = [pool.answers[i] for i in rows]
    prompts = [
        source.template.visa(pool.questions[i], pool.answers[i], target)
        for i, target in zip(rows, target_NM, strict=True)
    ]
    lengths = source.lengths
    return prompt_batch(
        source.tokenizer, prompts, target_NM, answers, prompt_length=lengths.visa_prompt, context_length=lengths.text
    )


def moc_prompts(
    source: Source, questions: Sequence[str], preference_NK: np.ndarray, encoding: str = "text"
) -> PromptBatch:
    """Prompts that state a preference before the question; rewards see the bare question."""
    prompts = [source.template.moc(q, p, encoding) for q, p in zip(questions, preference_NK, strict=True)]
    lengths = source.lengths
    return prompt_batch(
        source.tokenizer,
        prompts,
        preference_NK,
        list(questions),
        prompt_length=lengths.moc_prompt,
        context_length=lengths.question,
    )


def make_visa_prompts_fn(
    source: Source, pool: Pool, condition: Callable, prompts_per_step: int, key_data: Callable
) -> Callable:
    """``prompts_fn(key, step, own=None) -> PromptBatch`` for the RL loop: rows of the pool with freshly drawn targets.

    All are drawn, so that every process draws the same; those that ``own`` (int [n]) numbers are written (None: all).
    """

    def prompts_fn(key, step: int, own: np.ndarray | None = None) -> PromptBatch:
        del step  # the key already says it
        rows = draw_rows(key_data(key), len(pool.questions), prompts_per_step)
        target_NM, own = np.asarray(condition(key, pool.value_PM[rows])), slice(None) if own is None else own
        return visa_prompts(source, pool, rows[own], target_NM[own])

    return prompts_fn


def make_moc_prompts_fn(
    source: Source,
    questions: Sequence[str],
    condition: Callable,
    prompts_per_step: int,
    key_data: Callable,
    encoding: str,
) -> Callable:
    """``prompts_fn(key, step, own=None) -> PromptBatch`` for the RL loop: random questions, fresh preferences.

    ``own`` as in ``make_visa_prompts_fn``.
    """

    def prompts_fn(key, step: int, own: np.ndarray | None = None) -> PromptBatch:
        del step
        rows = draw_rows(key_data(key), len(questions), prompts_per_step)
        anchor, own = np.zeros((prompts_per_step, 1), np.float32), slice(None) if own is None else own
        preference_NK = np.asarray(condition(key, anchor))
        return moc_prompts(source, [questions[i] for i in rows[own]], preference_NK[own], encoding)

    return prompts_fn
