"""Decoding and update of a Qwen2-shaped model of half a billion parameters on the accelerator that is there.

    python benchmarks/accelerator.py [--prompts=32] [--group=8] [--prompt=512] [--completion=256] [--micro_batches=8]
    python benchmarks/peers/torch_accelerator.py      # the same in PyTorch, from an environment of its own

Random weights in bfloat16 computation. Prints one JSON line: tokens a second drawn and their share of what the memory's
bandwidth allows (weights and cache read once a token, ``planning/counts.py``), seconds of an update (GRPO with a
reference) and its MFU (forward and backward pass of the policy alone). Medians of ``--repeats``. ``--tiny``: for CPUs.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.methods.visa import VisaConfig, make_method
from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.planning.counts import Work, decode_bytes, useful_flops
from visa_jax.rewards.base import Reward
from visa_jax.training.loop import Experiment, LoopConfig, make_programs, start
from visa_jax.training.optimizer import OptimizerConfig
from visa_jax.training.policy import make_policy_fn
from visa_jax.types import PromptBatch

# bytes and bfloat16 FLOPs a second, dense, of the SXM cards (NVIDIA's data sheets)
RATES = {"H100": (3.35e12, 989e12), "H200": (4.8e12, 989e12), "A100": (2.039e12, 312e12)}
QWEN = dict(vocab_size=151_936, width=896, layers=24, heads=14, kv_heads=2, head_dim=64, mlp_width=4864)
TINY = dict(vocab_size=512, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp_width=128)


def make_parts(sizes):
    """(Experiment, config, decoder's config, init_fn); the end token is an id that cannot be drawn."""
    shape = TINY if sizes.tiny else QWEN
    decoder = DecoderConfig(
        **shape, bias=True, dtype="bfloat16", remat="full", max_length=sizes.prompt + sizes.completion
    )
    lm, init_fn = make_decoder(decoder)
    visa = VisaConfig(reward_names=("share",), reward_weights=(1.0,), num_generations=sizes.group)

    def prompts_fn(key, step, own=None):
        ids = (
            np.random.default_rng(step).integers(3, shape["vocab_size"], (sizes.prompts, sizes.prompt)).astype(np.int32)
        )
        whole = dict(prompt_mask_NL=ids > 0, context_NS=ids, context_mask_NS=ids > 0)
        return PromptBatch(prompt_NL=ids, condition_NM=np.zeros((sizes.prompts, 1), np.float32), **whole)

    share = Reward("share", lambda _, rollout: jnp.mean(rollout.completion_BT % 2 == 0, axis=1, dtype=jnp.float32), ())
    experiment = Experiment(
        method=make_method(visa),
        lm=lm,
        policy_fn=make_policy_fn(lm, temperature=1.0),
        rewards=(share,),
        prompts_fn=prompts_fn,
        group_size=sizes.group,
        max_new_tokens=sizes.completion,
        end_id=shape["vocab_size"],
        pad_id=0,
    )
    config = LoopConfig(
        steps=sizes.repeats + 1,
        prompts_per_step=sizes.prompts,
        micro_batches=sizes.micro_batches,
        optimizer=OptimizerConfig(learning_rate=1e-6, warmup=0.0),
    )
    return experiment, config, decoder, init_fn


def timed(fn, *args):
    """(result, seconds)."""
    began = time.perf_counter()
    result = jax.block_until_ready(fn(*args))
    return result, time.perf_counter() - began


def run(sizes) -> dict:
    experiment, config, decoder, init_fn = make_parts(sizes)
    params = {"decoder": jax.jit(init_fn)(jax.random.key(0))}
    reference = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    state = start(experiment, config, params, {}, jax.random.key(1))
    programs = make_programs(experiment, config, state)
    rollouts, updates = [], []
    for step in range(sizes.repeats + 1):  # the first compiles
        prompts = experiment.prompts_fn(None, step)
        drawn, seconds = timed(programs.rollout, state.params, reference, prompts, jax.random.key(step))
        rollouts.append(seconds)
        scored = programs.score(((),), drawn)
        (state, _), seconds = timed(programs.update, state, reference, scored)
        updates.append(seconds)
    rollout, update = statistics.median(rollouts[1:]), statistics.median(updates[1:])
    work = Work(decoder, sizes.prompts, sizes.group, sizes.prompt, sizes.completion)
    numbers = sum(x.size for x in jax.tree.leaves(params))
    device = jax.devices()[0]
    told = {
        "device": device.device_kind,
        "parameters": numbers,
        "rollout_seconds": rollout,
        "tokens_per_second": sizes.prompts * sizes.group * sizes.completion / rollout,
        "update_seconds": update,
        "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "versions": {"jax": jax.__version__},
    }
    rates = next((rates for name, rates in RATES.items() if name in device.device_kind), None)
    if rates:
        # parameters are float32, so that is what a step of decoding reads
        least = decode_bytes(work, 1, 1, 4.0 * numbers) * (sizes.completion - 1) / rates[0]
        told |= {"bandwidth_share": least / rollout, "update_mfu": useful_flops(work) / rates[1] / update}
    return told


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = dict(prompts=32, group=8, prompt=512, completion=256, micro_batches=8, repeats=3)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    print(json.dumps(run(parse())))
