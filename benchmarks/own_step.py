"""One process of ours for ``grpo_step.py``: the project's loop on a workload.

    python benchmarks/own_step.py --workload=M [--steps=4]

Prints one JSON line. The loop is ``training.loop.train`` with VISA's method at one reward of weight 1, which is GRPO.
Reference log-probabilities are part of the update's program; ``reference_seconds`` is the time of the same function
jitted alone after the steps, and ``update_seconds`` what is left of the step without it and the rollout.
"""

import platform
import statistics
import time

import flax
import jax
import jax.numpy as jnp
import numpy as np
from workloads import BETA, CLIP_NORM, LEARNING_RATE, PAD, TEMPERATURE, UNKNOWN, parse, record, show

from visa_jax.data.tokenizer import encode_batch
from visa_jax.methods.visa import VisaConfig, make_method
from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.rewards.base import Reward
from visa_jax.training.loop import Experiment, Hooks, LoopConfig, start, train
from visa_jax.training.optimizer import OptimizerConfig
from visa_jax.training.policy import make_policy_fn
from visa_jax.types import PromptBatch


def make_tokenizer(sizes):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(sizes.words(), unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, unk_token=UNKNOWN)


def make_experiment(sizes):
    """``(Experiment, init_fn, rollouts)``; the last rollout scored is kept in ``rollouts``."""
    model = DecoderConfig(
        vocab_size=sizes.vocabulary,
        width=sizes.width,
        layers=sizes.layers,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        mlp_width=sizes.mlp_width,
        bias=True,
        scan_layers=False,
        max_length=sizes.prompt + sizes.completion,
    )
    lm, init_fn = make_decoder(model)
    config = VisaConfig(
        reward_names=("share",),
        reward_weights=(1.0,),
        num_generations=sizes.group,
        beta=BETA,
        max_completion_length=sizes.completion,
    )
    tokenizer = make_tokenizer(sizes)

    def prompts_fn(key, step, own=None):
        ids, mask = encode_batch(tokenizer, sizes.texts(step), sizes.prompt)
        condition = np.zeros((sizes.prompts, 1), np.float32)
        return PromptBatch(
            prompt_NL=ids, prompt_mask_NL=mask, condition_NM=condition, context_NS=ids, context_mask_NS=mask
        )

    def share(_, rollout):
        """``workloads.reward`` on ids: word i is named after its id."""
        return jnp.mean(rollout.completion_BT % 2 == 0, axis=1, dtype=jnp.float32)

    experiment = Experiment(
        method=make_method(config),
        lm=lm,
        policy_fn=make_policy_fn(lm, temperature=TEMPERATURE),
        rewards=(Reward("share", share, ()),),
        prompts_fn=prompts_fn,
        group_size=sizes.group,
        max_new_tokens=sizes.completion,
        end_id=sizes.end_id,
        pad_id=0,
    )
    return experiment, init_fn


def run(sizes, steps: int) -> dict:
    experiment, init_fn = make_experiment(sizes)
    optimizer = OptimizerConfig(learning_rate=LEARNING_RATE, warmup=0.0, clip_norm=CLIP_NORM)
    config = LoopConfig(
        steps=steps + 1,
        prompts_per_step=sizes.prompts,
        temperature=TEMPERATURE,
        micro_batches=sizes.micro_batches,
        evaluate_every=0,
        checkpoint_every=0,
        optimizer=optimizer,
    )
    params = {"decoder": jax.jit(init_fn)(jax.random.key(0))}
    state = start(experiment, config, params, {}, jax.random.key(1))
    timed, began = [], time.perf_counter()

    def on_metrics(step, metrics):
        nonlocal began
        now = time.perf_counter()
        timed.append({"step": now - began, "rollout": metrics["seconds/rollout"], "reference": 0.0})
        began = now

    hooks = Hooks(on_metrics, lambda *_: None, lambda *_: None, lambda: False)
    train(experiment, config, state, params, hooks)
    result = record(sizes, timed, {"jax": jax.__version__, "flax": flax.__version__})
    reference = time_reference(experiment, params, sizes)
    rate = matmul_rate()
    return result | {
        "reference_seconds": reference,
        "update_seconds": result["update_seconds"] - reference,
        "matmul_gflops": rate / 1e9,
        "floor_seconds": sizes.flops() / rate,
        "floor_share": sizes.flops() / rate / result["seconds_per_step"],
        "machine": f"{platform.machine()}, {len(jax.devices())} device, {cores()} cores",
    }


def time_reference(experiment, params, sizes, repeats: int = 3) -> float:
    from visa_jax.types import Rollout

    shape = (sizes.rows, sizes.completion)
    rollout = Rollout(
        prompts=experiment.prompts_fn(None, 0),
        completion_BT=np.random.default_rng(0).integers(2, sizes.vocabulary, shape).astype(np.int32),
        mask_BT=np.ones(shape, bool),
        logp_BT=np.zeros(shape, np.float32),
    )
    program = jax.jit(experiment.policy_fn)
    return median_seconds(lambda: program(params, rollout), repeats)


def matmul_rate(size: int = 1536) -> float:
    """Floating-point operations a second of one square float32 matrix product."""
    matrix = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / median_seconds(lambda: product(matrix, matrix), 9)


def median_seconds(call, repeats: int) -> float:
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    options = parse(__doc__)
    show(run(options.sizes, options.steps))
