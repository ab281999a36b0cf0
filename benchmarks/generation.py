"""What generation costs: by the lengths that completions really have, and by the number of completions of a prompt.

    python benchmarks/generation.py [--workload=M] [--repeats=7]

Prints one JSON line. ``half_length``: time of completions that all end at half of the limit, by the time of those that
reach it (the end token is forced; the limit and all shapes are the same). ``double_group``: what twice the completions
of each prompt add, by the suffix work (all but the prefill) of the single ones. Calls alternate.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
from own_step import make_experiment
from workloads import WORKLOADS

from visa_jax.rollout import generate


def ending_at(lm, length: int, end_id: int):
    """``lm`` whose token number ``length`` (from 1) is the end token, for every row: ``decode`` hands its step on."""

    def decode(params, prefix, cache, token_B, step):
        hidden, cache = lm.decode(params, prefix, cache, token_B, step)
        return (hidden, step), cache

    def logits(params, hidden):
        if not isinstance(hidden, tuple):
            return lm.logits(params, hidden)
        ending = jnp.where(jnp.arange(end_id + 1) == end_id, 1e9, 0.0)[None, :]
        return lm.logits(params, hidden[0]) + jnp.where(hidden[1] + 2 == length, ending, 0.0)

    return lm._replace(decode=decode, logits=logits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="M")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    sizes = WORKLOADS[options.workload]
    experiment, init_fn = make_experiment(sizes)
    params, prompts = jax.jit(init_fn)(jax.random.key(0)), experiment.prompts_fn(None, 0)
    end_id = sizes.vocabulary - 1  # reachable here, though hardly ever drawn before it is forced

    def program(length: int, group: int):
        lm = ending_at(experiment.lm, length, end_id)
        settings = dict(group_size=group, max_new_tokens=sizes.completion, end_id=end_id, pad_id=0)
        run = jax.jit(lambda params, prompts, key: generate(lm, params, prompts, key, **settings))
        assert int(run(params, prompts, jax.random.key(0)).mask_BT.any(axis=0).sum()) == length
        return lambda: run(params, prompts, jax.random.key(0))

    prefill = jax.jit(experiment.lm.prefill)
    calls = {
        "full": program(sizes.completion, sizes.group),
        "half": program(sizes.completion // 2, sizes.group),
        "double": program(sizes.completion, 2 * sizes.group),
        "prefill": lambda: prefill(params, prompts.prompt_NL, prompts.prompt_mask_NL),
    }
    seconds = {name: [] for name in calls}
    for _ in range(options.repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - began)
    runs = list(zip(*(seconds[name][1:] for name in calls), strict=True))
    result = {
        "workload": options.workload,
        **{f"{name}_seconds": round(statistics.median(values[1:]), 4) for name, values in seconds.items()},
        "half_length": round(statistics.median(half / full for full, half, _, _ in runs), 3),
        "double_group": round(statistics.median((double - f) / (f - pre) for f, _, double, pre in runs), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
