"""Single-use programs of evaluation and of the commands: jitted once, run in batches of one shape."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from transformers import PreTrainedTokenizerBase

from visa_jax.data.source import Source
from visa_jax.data.tokenizer import decode_batch, encode_batch, pad_id
from visa_jax.ops.masked import is_end
from visa_jax.parallel import ROLLOUT_RULES, constrain, on_mesh
from visa_jax.parallel.axes import constrain_params
from visa_jax.rewards.base import Reward, stack_rewards, text_tokens
from visa_jax.rollout import generate
from visa_jax.rollout.closed_loop import Measured
from visa_jax.types import EndId, LanguageModel, Params, PromptBatch, Rollout


class Completions(NamedTuple):
    """n prompts' completions: ids, mask without the end token, texts."""

    token_BT: np.ndarray
    mask_BT: np.ndarray
    texts: list[str]
    drawn_BT: np.ndarray  # the mask with the end token: what the policy drew


def make_sampler(
    lm: LanguageModel,
    source: Source,
    *,
    max_new_tokens: int,
    end_id: EndId,
    batch_size: int = 64,
    widths: Sequence[int] = (),
    mesh: Mesh | None = None,
    axes_fn: Callable[[Params], Params] | None = None,
) -> Callable:
    """``sample(decoder params, prompts, key, temperature=0.0, noise_N=None) -> Completions``, one completion a prompt.

    A row's noise depends on the key and its entry of ``noise_N`` (int [N]; its number if None), not on the batch that
    it is in: rows with equal entries meet the same noise (common random numbers). ``widths`` (``bucket_widths``) are
    the buckets of prompts: each is cut to the narrowest that holds it, those of one bucket are drawn together, and one
    program is compiled for each bucket in use. () = one bucket, as wide as the prompts come.
    On a ``mesh`` parameters come in pieces (``axes_fn``: params -> their logical axes) and rows are cut; every process
    calls, and every process has all completions.
    """
    tokenizer = source.tokenizer

    def draw(params, prompts, noise_B, key, temperature):
        if mesh is not None:  # whole along fsdp before the first token, as in training (training/meshed.py)
            params = constrain_params(params, axes_fn(params))
            cut = lambda x: constrain(x, "batch", *(None,) * (x.ndim - 1))
            prompts, noise_B = jax.tree.map(cut, (prompts, noise_B))
        return generate(
            lm,
            params,
            prompts,
            key,
            group_size=1,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            end_id=end_id,
            pad_id=pad_id(tokenizer),
            noise_B=noise_B,
        )

    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    program = jax.jit(on_mesh(draw, mesh, ROLLOUT_RULES), out_shardings=everywhere)

    def sample(params: Params, prompts: PromptBatch, key, temperature: float = 0.0, noise_N=None) -> Completions:
        prompts = jax.tree.map(np.asarray, prompts)
        total = prompts.prompt_NL.shape[0]
        noise_N = np.asarray(np.arange(total) if noise_N is None else noise_N, np.int32)
        token_BT, drawn_BT = np.zeros((total, max_new_tokens), np.int32), np.zeros((total, max_new_tokens), bool)
        for width, members in bucket_rows(prompts.prompt_mask_NL, widths):
            for places, count in batch_rows(len(members), batch_size):
                rows = members[places]
                rollout = program(params, take_rows(prompts, rows, width), noise_N[rows], key, np.float32(temperature))
                token_BT[rows[:count]] = np.asarray(rollout.completion_BT)[:count]
                drawn_BT[rows[:count]] = np.asarray(rollout.mask_BT)[:count]
        mask_BT = drawn_BT & ~is_end(token_BT, end_id)
        texts = fit_texts(tokenizer, decode_batch(tokenizer, token_BT, mask_BT), max_new_tokens)
        return Completions(token_BT, mask_BT, texts, drawn_BT)

    return sample


def take_rows(prompts: PromptBatch, rows: np.ndarray, width: int) -> PromptBatch:
    """Some prompts of a batch of numpy arrays, cut to their first ``width`` columns."""
    some = jax.tree.map(lambda x: x[rows], prompts)
    return dataclasses.replace(some, prompt_NL=some.prompt_NL[:, :width], prompt_mask_NL=some.prompt_mask_NL[:, :width])


def fit_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int) -> list[str]:
    """Texts that a policy wrote, each read again as at most ``length`` tokens.

    A policy may spell a word in other pieces than the tokenizer would, or draw half of a character; such a text can
    take more tokens when it is read again than when it was written. What is too much at its end is left out.
    """
    made = list(texts)
    todo = list(range(len(made)))
    while todo:
        read = tokenizer([made[i] for i in todo], add_special_tokens=False, return_offsets_mapping=True)
        long = [k for k, ids in enumerate(read["input_ids"]) if len(ids) > length]
        for k in long:
            made[todo[k]] = made[todo[k]][: read["offset_mapping"][k][length - 1][0]].rstrip()
        todo = [todo[k] for k in long]
    return made


def batch_rows(total: int, size: int) -> list[tuple[np.ndarray, int]]:
    """(row numbers [size], how many of them count) of each batch of ``total`` rows, so that one shape is compiled.

    The last batch is filled up with copies of the last row.
    """
    begins = range(0, total, size)
    return [(np.minimum(np.arange(begin, begin + size), total - 1), min(size, total - begin)) for begin in begins]


def bucket_widths(longest: int, shortest: int = 16) -> tuple[int, ...]:
    """Powers of two from ``shortest``, and ``longest`` as the last: the widths to which prompts are padded."""
    widths = []
    while shortest < longest:
        widths.append(shortest)
        shortest *= 2
    return (*widths, longest)


def bucket_width(mask_NL: np.ndarray, widths: Sequence[int]) -> int:
    """The least of ``widths`` that holds every prompt, at most all columns there are (also where ``widths`` is ())."""
    columns = mask_NL.shape[1]
    needed = int(np.max(np.flatnonzero(mask_NL.any(axis=0)), initial=-1)) + 1
    return min((width for width in widths if needed <= width < columns), default=columns)


def bucket_rows(mask_NL: np.ndarray, widths: Sequence[int]) -> list[tuple[int, np.ndarray]]:
    """(width, row numbers [n]) of each bucket in use, narrow ones first; a row is in the narrowest that holds it."""
    width_N = np.asarray([bucket_width(row_L[None], widths) for row_L in mask_NL])
    return [(int(width), np.flatnonzero(width_N == width)) for width in np.unique(width_N)]


def by_rows(program: Callable, params: Params, arrays: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
    """``program(params, *rows)`` over n rows in batches of one shape (the last one filled with copies)."""
    pieces = []
    for rows, count in batch_rows(len(arrays[0]), batch_size):
        pieces.append(np.asarray(program(params, *(array[rows] for array in arrays)))[:count])
    return np.concatenate(pieces)


PROMPT_FIELDS = tuple(PromptBatch.__dataclass_fields__)


def make_rollout(arrays: Sequence) -> Rollout:
    """A rollout from the arrays of a PromptBatch (``PROMPT_FIELDS``), completions and what was drawn of them."""
    *prompts, token_BT, drawn_BT = arrays
    return Rollout(
        prompts=PromptBatch(**dict(zip(PROMPT_FIELDS, prompts, strict=True))),
        completion_BT=token_BT,
        mask_BT=drawn_BT,
        logp_BT=jnp.zeros(token_BT.shape, jnp.float32),
    )


def make_measure(
    rewards: tuple[Reward, ...],
    weights: Sequence[float],
    detect_fn: Callable,
    entailment_fn: Callable,
    *,
    end_id: EndId,
    batch_size: int = 64,
) -> Callable[[tuple[Params, Params], PromptBatch, Completions], Measured]:
    """``measure((detector, analyzer) params, prompts, completions) -> Measured``: what the closed loop asks of a text.

    Everything is read from the ids that were drawn, as in training; the reward is the weighted sum of ``rewards``.
    """
    score = stack_rewards(rewards)

    @jax.jit
    def measure_rows(params, *arrays):
        rollout, (detector, analyzer, reward_params) = make_rollout(arrays), params
        prompts, text = rollout.prompts, text_tokens(rollout, end_id)
        sides = entailment_fn(analyzer, prompts.context_NS, prompts.context_mask_NS, *text)
        reward_BK = score(reward_params, rollout).reward_BK
        reward_B = jnp.nansum(reward_BK * jnp.asarray(weights, reward_BK.dtype)[None], axis=1)
        return jnp.concatenate([detect_fn(detector, *text).value_BM, jnp.stack([*sides, reward_B], axis=1)], axis=1)

    def measure(params: tuple[Params, Params], prompts: PromptBatch, said: Completions) -> Measured:
        arrays = [np.asarray(getattr(prompts, name)) for name in PROMPT_FIELDS]
        everything = (*params, tuple(reward.params for reward in rewards))
        out = by_rows(measure_rows, everything, [*arrays, said.token_BT, said.drawn_BT], batch_size)
        return Measured(out[:, :-3], out[:, -3], out[:, -2], out[:, -1])

    return measure


class Readers(NamedTuple):
    """What reads texts in evaluation; each compiles once for its batch."""

    values: Callable  # (params, texts) -> [n, 10]
    entailment: Callable  # (params, sources, texts) -> (F, B), each [n]
    reward: Callable  # (params, questions, answers) -> [n]


def make_readers(source: Source, detect_fn, entailment_fn, score_fn, batch_size: int = 64) -> Readers:
    """Detector, analyzer and reward model as functions of texts, over a source's tokenizer and lengths.

    Args:
      detect_fn, entailment_fn, score_fn: those of ``models/readers.py`` and ``rewards/entailment.py``; not yet jitted.
        None for one that is never asked.
    """
    tokenizer, lengths = source.tokenizer, source.lengths
    detect = jax.jit(lambda params, token, mask: detect_fn(params, token, mask).value_BM)
    entail = jax.jit(lambda params, *sides: jnp.stack(entailment_fn(params, *sides), axis=1))
    score = None if score_fn is None else jax.jit(score_fn)

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
