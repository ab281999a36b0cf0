"""What an update gains by cutting its pieces to the lengths of their completions (`loop.length_buckets`).

    python benchmarks/update_lengths.py [--workload=M] [--repeats=5] [--buckets=1,2,4]

Prints one JSON line. Rows of the workload have lengths from an exponential distribution whose mean is a quarter of the
limit, cut there (one row in 55 is). `seconds` are medians over rounds in each of which every number of buckets has its
turn, `ratio` the median of the rounds' ratios to one bucket, `first` the first call (compilation); `columns` is the
share of columns that are computed.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np
from own_step import make_experiment
from workloads import CLIP_NORM, LEARNING_RATE, WORKLOADS

from visa_jax.training.lengths import equal_widths
from visa_jax.training.loop import LoopConfig, start
from visa_jax.training.optimizer import OptimizerConfig
from visa_jax.training.programs import make_jitted
from visa_jax.types import Rollout, Scored


def make_scored(experiment, sizes) -> Scored:
    rng = np.random.default_rng(0)
    length_B = np.clip(np.ceil(rng.exponential(sizes.completion / 4, sizes.rows)), 1, sizes.completion).astype(int)
    mask_BT = np.arange(sizes.completion)[None, :] < length_B[:, None]
    rollout = Rollout(
        prompts=experiment.prompts_fn(None, 0),
        completion_BT=rng.integers(2, sizes.vocabulary, mask_BT.shape).astype(np.int32),
        mask_BT=mask_BT,
        logp_BT=np.where(mask_BT, -9.0, 0.0).astype(np.float32),
    )
    return Scored(rollout=rollout, reward_BK=rng.uniform(size=(sizes.rows, 1)).astype(np.float32))


def computed_columns(mask_BT, sizes, buckets: int) -> float:
    """Of all columns of all pieces."""
    widths = np.array(equal_widths(sizes.completion, buckets))
    longest_N = np.sort(mask_BT.sum(axis=1).reshape(sizes.prompts, -1).max(axis=1))
    longest_P = longest_N.reshape(sizes.micro_batches, -1).max(axis=1)
    return float(widths[np.searchsorted(widths, longest_P)].mean() / sizes.completion)


def run(sizes, repeats: int, choices: list[int]) -> dict:
    experiment, init_fn = make_experiment(sizes)
    optimizer = OptimizerConfig(learning_rate=LEARNING_RATE, warmup=0.0, clip_norm=CLIP_NORM)
    sizes_of_step = dict(prompts_per_step=sizes.prompts, micro_batches=sizes.micro_batches, optimizer=optimizer)
    params = {"decoder": jax.jit(init_fn)(jax.random.key(0))}
    scored = jax.device_put(make_scored(experiment, sizes))
    states, updates, first = {}, {}, {}
    for buckets in choices:
        config = LoopConfig(length_buckets=buckets, **sizes_of_step)
        states[buckets] = start(experiment, config, params, {}, jax.random.key(1))
        updates[buckets] = make_jitted(experiment, config, states[buckets]).update

    def call(buckets: int) -> float:
        began = time.perf_counter()
        states[buckets], _ = jax.block_until_ready(updates[buckets](states[buckets], params, scored))
        return time.perf_counter() - began

    first = {buckets: call(buckets) for buckets in choices}
    rounds = [{buckets: call(buckets) for buckets in choices} for _ in range(repeats)]
    return {
        "seconds": {b: round(statistics.median(one[b] for one in rounds), 4) for b in choices},
        "ratio": {b: round(statistics.median(one[b] / one[choices[0]] for one in rounds), 3) for b in choices},
        "first": {b: round(first[b], 1) for b in choices},
        "columns": {b: round(computed_columns(scored.rollout.mask_BT, sizes, b), 3) for b in choices},
        "mean_length": float(np.mean(np.sum(scored.rollout.mask_BT, axis=1)) / sizes.completion),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="M")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--buckets", default="1,2,4", help="numbers of buckets; ratios are to the first")
    options = parser.parse_args()
    buckets = [int(word) for word in options.buckets.split(",")]
    print(json.dumps({"workload": options.workload, **run(WORKLOADS[options.workload], options.repeats, buckets)}))
