"""A queue of prompts through a fixed number of slots: a row that ends makes room for the next prompt.

1 place a prompt into each free slot   2 draw until a slot is free (or it is time to look for stop strings)
3 on the host: cut at stop strings, take what is done out of its slot, back to 1

``place`` compiles once for each width of prompts, the drawing once.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.data.tokenizer import before_stop
from visa_jax.evaluation.run import bucket_width, take_rows
from visa_jax.rollout.generate import advance
from visa_jax.rollout.slots import empty, place
from visa_jax.types import EndId, LanguageModel, Params, PromptBatch, Rollout


def make_queue(
    lm: LanguageModel,
    *,
    slots: int,
    max_new_tokens: int,
    end_id: EndId,
    pad_id: int,
    group_size: int = 1,
    widths: Sequence[int] = (),
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    kv_cache_dtype: str = "auto",
    stop: Sequence[str] = (),
    read_fn: Callable[[list[int]], str] | None = None,
    stop_every: int = 16,
) -> Callable[..., Rollout]:
    """``run(params, prompts, key, temperature=1.0) -> Rollout`` of numpy arrays, prompts in the order given.

    What ``generate`` with ``noise_B = arange(B)`` gives, in about the time of the live tokens and not of the longest
    row of each batch. Prompts are prefilled one by one, each for its group.

    Args:
        slots: prompts that are drawn at once; with ``group_size`` completions each.
        widths: of prompts, as for ``bucket_width``; () = that of the batch.
        stop: strings that end a row. Its last token is the first with which its text holds one of them, kept and
            counted as the end token is; what the text ends before is for ``data.tokenizer.before_stop`` to say.
        read_fn: the text of completion ids; needed with ``stop``.
        stop_every: steps after which rows are read for stop strings; changes the time and not the result.
    """
    stop_fn = make_stop_fn(stop, read_fn)
    choice = dict(top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty)
    choice |= dict(end_id=end_id, pad_id=pad_id)
    sizes = dict(group_size=group_size, max_new_tokens=max_new_tokens, kv_cache_dtype=kv_cache_dtype)
    unstack = jax.jit(lm.unstack)
    blank = jax.jit(
        lambda params, prompt, key, width: empty(
            lm, params, prompt, key, slots=slots, width=width, temperature=1.0, **sizes, **choice
        ),
        static_argnums=3,
    )
    place_one = jax.jit(
        lambda rows, params, slot, prompt, number, key, temperature: place(
            lm, params, rows, slot, prompt, number, key, temperature=temperature, **sizes, **choice
        ),
        donate_argnums=0,
    )
    draw = jax.jit(
        lambda rows, params, unstacked, key, free, temperature: advance(
            lm,
            params,
            unstacked,
            rows,
            key,
            free=free,
            most_steps=None if stop_fn is None else stop_every,
            temperature=temperature,
            **choice,
        ),
        donate_argnums=0,
    )

    def run(params: Params, prompts: PromptBatch, key: jax.Array, temperature: float = 1.0) -> Rollout:
        prompts = jax.tree.map(np.asarray, prompts)
        total, temperature = len(prompts.prompt_NL), np.float32(temperature)
        rows = blank(params, jax.tree.map(lambda x: x[:1], prompts), key, prompts.prompt_NL.shape[1])
        unstacked = unstack(params)
        shape = (total, group_size, max_new_tokens)
        told = (np.full(shape, pad_id, np.int32), np.zeros(shape, bool), np.zeros(shape, np.float32))
        waiting, held = collections.deque(range(total)), {}  # prompt numbers; slot -> prompt number
        read = np.zeros((slots, group_size), int)  # tokens of each row known to hold no stop string
        while waiting or held:
            for slot in range(slots):
                if waiting and slot not in held:
                    held[slot], read[slot] = waiting.popleft(), 0
                    width = bucket_width(prompts.prompt_mask_NL[[held[slot]]], widths)
                    prompt = take_rows(prompts, [held[slot]], width)
                    rows = place_one(rows, params, slot, prompt, held[slot], key, temperature)
            rows = draw(rows, params, unstacked, key, 1 if waiting else slots, temperature)
            alive_SG = np.array(rows.alive_B).reshape(slots, group_size)
            drawn = [np.array(x).reshape(slots, *shape[1:]) for x in (rows.completion_BT, rows.mask_BT, rows.logp_BT)]
            if stop_fn is not None:
                _cut(stop_fn, list(held), read, alive_SG, *drawn[:2])
                rows = dataclasses.replace(rows, alive_B=jnp.asarray(alive_SG.reshape(-1)))
            for slot in [slot for slot in held if not alive_SG[slot].any()]:
                number, mask_GT = held.pop(slot), drawn[1][slot]
                for out, array in zip(told, drawn, strict=True):
                    out[number][mask_GT] = array[slot][mask_GT]
        told = [x.reshape(total * group_size, max_new_tokens) for x in told]
        return Rollout(prompts=prompts, completion_BT=told[0], mask_BT=told[1], logp_BT=told[2])

    return run


def make_stop_fn(stop: Sequence[str], read_fn: Callable[[list[int]], str]) -> Callable[[list[int]], bool] | None:
    """``stop_fn(ids)``: whether the text of completion ids holds one of the strings; None where there are none."""
    return (lambda ids: before_stop(read_fn(ids), stop) is not None) if stop else None


def stop_length(ids: list[int], stop_fn: Callable[[list[int]], bool], known: int = 0) -> int | None:
    """The least number of tokens, above ``known``, that hold a stop string; None where all of them hold none."""
    if len(ids) == known or not stop_fn(ids):
        return None
    return next(count for count in range(known + 1, len(ids) + 1) if stop_fn(ids[:count]))


def _cut(stop_fn, slots, read_SG, alive_SG, token_SGT, mask_SGT) -> None:
    """End, in place, the rows of some slots that hold a stop string; of the others note how far they were read."""
    for slot in slots:
        for row in range(alive_SG.shape[1]):
            ids = token_SGT[slot, row][mask_SGT[slot, row]].tolist()
            kept = stop_length(ids, stop_fn, read_SG[slot, row])
            if kept is None:
                read_SG[slot, row] = len(ids)
            else:
                alive_SG[slot, row] = mask_SGT[slot, row, kept:] = False


def complete(
    lm: LanguageModel,
    params: Params,
    ids: Sequence[int],
    key: jax.Array,
    *,
    temperature: float = 0.0,
    end_id: EndId,
    condition: Sequence[float] = (),
    stop: Sequence[str] = (),
    read_fn: Callable[[list[int]], str] | None = None,
    **settings,
) -> tuple[list[int], str]:
    """Ids drawn after one prompt, without the end token, and why they end: "end", "stop" or "length".

    ``condition`` is what the model may read beside the prompt (``DecoderConfig.condition``); ``settings`` are those of
    ``make_queue``. With a stop string the ids are those that hold it first. Compiles for this one prompt.
    """
    token = np.asarray([ids], np.int32)
    mask = np.ones(token.shape, bool)
    condition_NM = np.asarray([condition], np.float32)
    prompts = PromptBatch(
        prompt_NL=token, prompt_mask_NL=mask, condition_NM=condition_NM, context_NS=token, context_mask_NS=mask
    )
    run = make_queue(lm, slots=1, end_id=end_id, stop=stop, read_fn=read_fn, **settings)
    rollout = run(params, prompts, key, temperature)
    drawn, stop_fn = rollout.completion_BT[0][rollout.mask_BT[0]].tolist(), make_stop_fn(stop, read_fn)
    if stop_fn is not None and stop_fn(drawn):
        return drawn, "stop"
    if drawn[-1] in (end_id if isinstance(end_id, tuple) else (end_id,)):
        return drawn[:-1], "end"
    return drawn, "length"
