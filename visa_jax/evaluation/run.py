"""Single-use programs of evaluation and of the commands: jitted once, run in batches of one shape."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.data.pool import in_batches
from visa_jax.data.source import Source
from visa_jax.data.tokenizer import decode_batch, encode_batch, pad_id
from visa_jax.rollout import generate
from visa_jax.types import LanguageModel, Params, PromptBatch


class Completions(NamedTuple):
    """n prompts' completions: ids, mask without the end token, and texts."""

    token_BT: np.ndarray
    mask_BT: np.ndarray
    texts: list[str]


def make_sampler(lm: LanguageModel, source: Source, *, max_new_tokens: int, batch_size: int = 64) -> Callable:
    """``sample(decoder params, prompts, key, temperature=0.0) -> Completions``, one completion a prompt."""
    tokenizer = source.tokenizer
    program = jax.jit(
        lambda params, prompts, key, temperature: generate(
            lm,
            params,
            prompts,
            key,
            group_size=1,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            end_id=tokenizer.eos_token_id,
            pad_id=pad_id(tokenizer),
        )
    )

    def sample(params: Params, prompts: PromptBatch, key, temperature: float = 0.0) -> Completions:
        tokens, masks = [], []
        for number, (batch, count) in enumerate(in_batches(prompts, batch_size)):
            rollout = program(params, batch, jax.random.fold_in(key, number), np.float32(temperature))
            token = np.asarray(rollout.completion_BT)[:count]
            tokens.append(token)
            masks.append(np.asarray(rollout.mask_BT)[:count] & (token != tokenizer.eos_token_id))
        token_BT, mask_BT = np.concatenate(tokens), np.concatenate(masks)
        return Completions(token_BT, mask_BT, decode_batch(tokenizer, token_BT, mask_BT))

    return sample


def by_rows(program: Callable, params: Params, arrays: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
    """``program(params, *rows)`` over n rows in batches of one shape (the last one filled with copies)."""
    total = len(arrays[0])
    pieces = []
    for begin in range(0, total, batch_size):
        index = np.minimum(np.arange(begin, begin + batch_size), total - 1)
        out = np.asarray(program(params, *(array[index] for array in arrays)))
        pieces.append(out[: min(batch_size, total - begin)])
    return np.concatenate(pieces)


class Readers(NamedTuple):
    """What reads texts in evaluation; each compiles once for its batch."""

    values: Callable  # (params, texts) -> [n, 10]
    entailment: Callable  # (params, sources, texts) -> (F, B), each [n]
    reward: Callable  # (params, questions, answers) -> [n]


def make_readers(source: Source, detect_fn, entailment_fn, score_fn, batch_size: int = 64) -> Readers:
    """Detector, analyzer and reward model as functions of texts, over a source's tokenizer and lengths.

    Args:
      detect_fn, entailment_fn, score_fn: those of ``models/readers.py`` and ``rewards/entailment.py``; not yet jitted.
    """
    tokenizer, lengths = source.tokenizer, source.lengths
    detect = jax.jit(lambda params, token, mask: detect_fn(params, token, mask).value_BM)
    entail = jax.jit(lambda params, *sides: jnp.stack(entailment_fn(params, *sides), axis=1))
    score = jax.jit(score_fn)

    def values(params: Params, texts: Sequence[str]) -> np.ndarray:
        return by_rows(detect, params, encode_batch(tokenizer, texts, lengths.text), batch_size)

    def entailment(params: Params, sources: Sequence[str], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        sides = [encode_batch(tokenizer, side, lengths.text) for side in (sources, texts)]
        both = by_rows(entail, params, [*sides[0], *sides[1]], batch_size)
        return both[:, 0], both[:, 1]

    def reward(params: Params, questions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        asked = encode_batch(tokenizer, questions, lengths.question)
        said = encode_batch(tokenizer, answers, lengths.answer)
        return by_rows(score, params, [*asked, *said], batch_size)

    return Readers(values=values, entailment=entailment, reward=reward)
