"""What MOC of Llama-2-7B needs on one device: LoRA of rank 64 on a frozen base in few bits, compiled for TPU.

    python benchmarks/moc_7b_memory.py [--base=nf4] [--program=rollout] [--rollout_rows=16]

The paper's batch: 64 rows of 512 + 128 tokens; the update takes them by micro-batches, the rollout by calls of
``--rollout_rows``. Needs libtpu (extra tpu) and no TPU: parameters are abstract and nothing is run. Prints a JSON line
for each program: bytes of the arguments (base, adapters, optimizer state, rows), temporaries, and their sum (a 48 GB
card has room for 44e9). Results of the update that are written over donated arguments are not counted twice.
"""

import argparse
import dataclasses
import json
import os
import time

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from visa_jax.methods.moc import MocConfig, make_method
from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.models.heads import make_critic
from visa_jax.models.lora import LoraConfig, init_adapters
from visa_jax.models.quantize import quantize_params
from visa_jax.ops.conditions import two_decimal_preferences
from visa_jax.rollout import generate
from visa_jax.training.optimizer import OptimizerConfig, make_optimizer
from visa_jax.training.policy import make_lora_join, make_policy_fn
from visa_jax.training.state import init_state
from visa_jax.training.update import make_update
from visa_jax.types import PromptBatch, Rollout, Scored

LLAMA = DecoderConfig(
    vocab_size=32_000,
    width=4096,
    layers=32,
    heads=32,
    kv_heads=32,
    head_dim=128,
    mlp_width=11_008,
    tie_embeddings=False,
    max_length=4096,
    dtype="bfloat16",
    remat="full",
)
LORA = LoraConfig(rank=64, alpha=128.0, pattern="attention/.*|mlp/.*")  # [read] all kernels of the blocks: the most


def abstract_prompts(rows: int, prompt: int) -> PromptBatch:
    of = jax.ShapeDtypeStruct
    return PromptBatch(
        prompt_NL=of((rows, prompt), jnp.int32),
        prompt_mask_NL=of((rows, prompt), bool),
        condition_NM=of((rows, 2), jnp.float32),
        context_NS=of((rows, prompt), jnp.int32),
        context_mask_NS=of((rows, prompt), bool),
    )


def abstract_rows(rows: int, prompt: int, completion: int) -> Scored:
    of, shape = jax.ShapeDtypeStruct, (rows, completion)
    rollout = Rollout(
        prompts=abstract_prompts(rows, prompt),
        completion_BT=of(shape, jnp.int32),
        mask_BT=of(shape, bool),
        logp_BT=of(shape, jnp.float32),
    )
    return Scored(rollout=rollout, reward_BK=of((rows, 2), jnp.float32))


def size(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compiled_memory(function, arguments, donated, topology: str):
    """Compile for one device of the slice; the JSON fields that both programs share."""
    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    place, began = jax.sharding.SingleDeviceSharding(device), time.perf_counter()
    jitted = jax.jit(function, donate_argnums=donated, in_shardings=place, out_shardings=place)
    found = jitted.lower(*arguments).compile().memory_analysis()
    return {
        "argument_bytes": found.argument_size_in_bytes,
        "temporary_bytes": found.temp_size_in_bytes,
        "sum_gb": (found.argument_size_in_bytes + found.temp_size_in_bytes) / 1e9,
        "compile_seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", choices=("update", "rollout", "both"), default="both")
    parser.add_argument("--base", choices=("bfloat16", "int8", "nf4"), default="nf4", help="kernels of the frozen base")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--completion", type=int, default=128, help="tokens")
    parser.add_argument("--micro_batches", type=int, default=64, help="pieces of the batch, one after the other")
    parser.add_argument("--rollout_rows", type=int, default=64, help="rows that one call of the rollout generates")
    parser.add_argument("--attention", choices=("xla", "splash"), default="xla", help="xla is what any card can run")
    parser.add_argument("--topology", default="v5p:2x2x1", help="of which one device is taken")
    options = parser.parse_args()

    preferences = tuple(map(tuple, two_decimal_preferences(0).tolist()))
    method = make_method(MocConfig(preferences=preferences, max_completion_length=options.completion))
    lm, init_fn = make_decoder(dataclasses.replace(LLAMA, attention=options.attention), "tpu")
    critic_fn, init_critic = make_critic(LLAMA.width, method.signals)
    optimizer = make_optimizer(OptimizerConfig(), 100)
    scored = abstract_rows(options.rows, options.prompt, options.completion)
    join_fn = make_lora_join(LORA)

    def make_base():
        base = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), init_fn(jax.random.key(0)))
        return base if options.base == "bfloat16" else quantize_params(base, options.base)

    def make_state(base, reward_BK):
        params = {"decoder": init_adapters(jax.random.key(1), base, LORA), "critic": init_critic(jax.random.key(2))}
        return init_state(params, optimizer, method.init(reward_BK), jax.random.key(3))

    base = jax.eval_shape(make_base)
    state = jax.eval_shape(make_state, base, scored.reward_BK)
    reference = {"decoder": base, "critic": state.params["critic"]}
    update = make_update(
        method,
        make_policy_fn(lm, temperature=0.7, critic_fn=critic_fn),
        optimizer,
        end_id=2,
        micro_batches=options.micro_batches,
        join_fn=join_fn,
    )

    def rollout(trained, reference, prompts, key):
        params = join_fn(trained, reference)["decoder"]
        limits = dict(group_size=1, max_new_tokens=options.completion)
        return generate(lm, params, prompts, key, temperature=0.7, end_id=2, pad_id=0, **limits)

    prompts = abstract_prompts(options.rollout_rows, options.prompt)
    programs = {
        "update": (update, (state, reference, scored), (0,), {"micro_batches": options.micro_batches}),
        "rollout": (rollout, (state.params, reference, prompts, state.key), (), {"rollout_rows": options.rollout_rows}),
    }
    for name, (function, arguments, donated, cut) in programs.items():
        if options.program not in (name, "both"):
            continue
        about = {"program": name, "base": options.base, "attention": options.attention, "rows": options.rows, **cut}
        sizes = {"base_bytes": size(base), "adapter_bytes": size(state.params["decoder"])}
        print(json.dumps(about | sizes | compiled_memory(function, arguments, donated, options.topology)), flush=True)


if __name__ == "__main__":
    main()
