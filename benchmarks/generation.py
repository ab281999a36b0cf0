"""What generation costs: by the lengths that completions really have, and by the number of completions of a prompt.

    python benchmarks/generation.py [--workload=M] [--repeats=7]

Prints one JSON line; figures are medians over rounds, in each of which every call is made once.

half_length    time of completions that all end at half of the limit, by that of those that reach it (the end token is
               forced; the limit and all shapes are the same). ``half_suffix``: the same, less the prefill in both
double_group   what twice the completions of each prompt add, by the suffix work (all but the prefill) of the single
               ones: (time(2G) - time(G)) / (time(G) - time(prefill))
refill         four batches of prompts of which one is long (the limit) and the others an eighth of it: time of a queue
               with as many slots as a batch has prompts, by that of one batch after the other. ``refill_steps``: the
               same in decode steps, counted
int8_cache     time with keys and values in eight bits, by that with float32
"""

import argparse
import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from own_step import make_experiment
from workloads import WORKLOADS

from visa_jax.evaluation.queue import make_queue
from visa_jax.evaluation.run import take_rows
from visa_jax.rollout import generate

BATCHES = 4  # of the refill figure
SHORT = 8  # the limit, divided by the length of its short completions


def ending_at(lm, length_fn, end_id: int, on_step=None):
    """``lm`` whose token number ``length_fn(valid prompt tokens [N])`` (from 1) is the end token, for every row.

    ``decode`` hands on what is left of each row; ``on_step(0)`` is called at each decode step.
    """

    def decode(params, prefix, cache, token_B, step):
        if on_step is not None:
            jax.debug.callback(on_step, 0)
        length_N = length_fn(jnp.sum(prefix.mask_NL, axis=1))
        left_B = jnp.repeat(length_N, token_B.shape[0] // length_N.shape[0]) - (step + 2)
        hidden, cache = lm.decode(params, prefix, cache, token_B, step)
        return (hidden, left_B), cache

    def logits(params, hidden):
        hidden, left = hidden if isinstance(hidden, tuple) else (hidden, jnp.ones(len(hidden), int))  # after prefill
        is_end_V = jnp.arange(end_id + 1) == end_id
        return lm.logits(params, hidden) + jnp.where(is_end_V[None, :], jnp.where(left == 0, 1e9, -1e9)[:, None], 0.0)

    return lm._replace(decode=decode, logits=logits)


def make_refill_calls(lm, sizes, params, prompts, settings, on_step=None):
    """(batch after batch, the queue) over the same skewed prompts; a prompt without its last token is a short one."""
    short = sizes.completion // SHORT
    lm = ending_at(
        lm, lambda tokens_N: jnp.where(tokens_N == sizes.prompt, sizes.completion, short), settings["end_id"], on_step
    )
    every = np.tile(np.arange(sizes.prompts), BATCHES)
    prompts = take_rows(prompts, every, sizes.prompt)
    mask = prompts.prompt_mask_NL.copy()
    mask[every > 0, -1] = False
    prompts = dataclasses.replace(prompts, prompt_mask_NL=mask)
    batches = [take_rows(prompts, rows, sizes.prompt) for rows in np.split(np.arange(len(every)), BATCHES)]
    run = jax.jit(lambda params, prompts, key: generate(lm, params, prompts, key, **settings))
    queue = make_queue(lm, slots=sizes.prompts, **settings)
    expected = np.repeat(np.where(every > 0, short, sizes.completion), sizes.group)
    assert (queue(params, prompts, jax.random.key(0)).mask_BT.sum(axis=1) == expected).all()
    return (
        lambda: [run(params, batch, jax.random.key(0)) for batch in batches],
        lambda: queue(params, prompts, jax.random.key(0)),
    )


def count_steps(make_calls) -> list[int]:
    """Decode steps of each call that ``make_calls(on_step)`` makes."""
    seen, counts = [], []
    for call in make_calls(seen.append):
        jax.effects_barrier()
        seen.clear()
        jax.block_until_ready(call())
        jax.effects_barrier()
        counts.append(len(seen))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="M")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    sizes = WORKLOADS[options.workload]
    experiment, init_fn = make_experiment(sizes)
    params, prompts = jax.jit(init_fn)(jax.random.key(0)), experiment.prompts_fn(None, 0)
    end_id = sizes.vocabulary - 1  # of the vocabulary here, drawn where it is forced and nowhere else

    def program(length: int, group: int, **changes):
        lm = ending_at(experiment.lm, lambda tokens_N: jnp.full_like(tokens_N, length), end_id)
        settings = dict(group_size=group, max_new_tokens=sizes.completion, end_id=end_id, pad_id=0) | changes
        run = jax.jit(lambda params, prompts, key: generate(lm, params, prompts, key, **settings))
        assert int(run(params, prompts, jax.random.key(0)).mask_BT.any(axis=0).sum()) == length
        return lambda: run(params, prompts, jax.random.key(0))

    def refill(on_step=None):
        settings = dict(group_size=sizes.group, max_new_tokens=sizes.completion, end_id=end_id, pad_id=0)
        return make_refill_calls(experiment.lm, sizes, params, prompts, settings, on_step)

    prefill = jax.jit(experiment.lm.prefill)
    calls = {
        "full": program(sizes.completion, sizes.group),
        "half": program(sizes.completion // 2, sizes.group),
        "double": program(sizes.completion, 2 * sizes.group),
        "prefill": lambda: prefill(params, prompts.prompt_NL, prompts.prompt_mask_NL),
        "int8": program(sizes.completion, sizes.group, kv_cache_dtype="int8"),
    }
    calls["batches"], calls["queue"] = refill()
    steps = count_steps(refill)
    seconds = {name: [] for name in calls}
    for _ in range(options.repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - began)
    seconds = {name: np.asarray(values[1:]) for name, values in seconds.items()}
    full, suffix = seconds["full"], seconds["full"] - seconds["prefill"]
    result = {
        "workload": options.workload,
        **{f"{name}_seconds": round(float(np.median(values)), 4) for name, values in seconds.items()},
        "half_length": round(float(np.median(seconds["half"] / full)), 3),
        "half_suffix": round(float(np.median((seconds["half"] - seconds["prefill"]) / suffix)), 3),
        "double_group": round(float(np.median((seconds["double"] - full) / suffix)), 3),
        "refill": round(float(np.median(seconds["queue"] / seconds["batches"])), 3),
        "refill_steps": round(steps[1] / steps[0], 3),
        "int8_cache": round(float(np.median(seconds["int8"] / full)), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
