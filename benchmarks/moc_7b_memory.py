"""What MOC's update of Llama-2-7B needs on one device: LoRA of rank 64 on a frozen base in few bits, compiled for TPU.

    python benchmarks/moc_7b_memory.py [--base=nf4] [--micro_batches=64]      # needs libtpu (extra tpu), no TPU

The paper's batch: 64 rows of 512 + 128 tokens, by micro-batches. Parameters are abstract and nothing is run. Prints one
JSON line: bytes of the arguments (base, adapters, optimizer state, rows), temporaries, and their sum (a 48 GB card has
room for 44e9). Results of the program that are written over donated arguments are not counted twice.
"""

import argparse
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


def abstract_rows(rows: int, prompt: int, completion: int) -> Scored:
    of = jax.ShapeDtypeStruct
    prompts = PromptBatch(
        prompt_NL=of((rows, prompt), jnp.int32),
        prompt_mask_NL=of((rows, prompt), bool),
        condition_NM=of((rows, 2), jnp.float32),
        context_NS=of((rows, prompt), jnp.int32),
        context_mask_NS=of((rows, prompt), bool),
    )
    shape = (rows, completion)
    rollout = Rollout(
        prompts=prompts,
        completion_BT=of(shape, jnp.int32),
        mask_BT=of(shape, bool),
        logp_BT=of(shape, jnp.float32),
    )
    return Scored(rollout=rollout, reward_BK=of((rows, 2), jnp.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=("bfloat16", "int8", "nf4"), default="nf4", help="kernels of the frozen base")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--completion", type=int, default=128, help="tokens")
    parser.add_argument("--micro_batches", type=int, default=64, help="pieces of the batch, one after the other")
    parser.add_argument("--topology", default="v5p:2x2x1", help="of which one device is taken")
    options = parser.parse_args()

    preferences = tuple(map(tuple, two_decimal_preferences(0).tolist()))
    method = make_method(MocConfig(preferences=preferences, max_completion_length=options.completion))
    lm, init_fn = make_decoder(LLAMA)
    critic_fn, init_critic = make_critic(LLAMA.width, method.signals)
    optimizer = make_optimizer(OptimizerConfig(), 100)
    scored = abstract_rows(options.rows, options.prompt, options.completion)

    def make_base():
        base = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), init_fn(jax.random.key(0)))
        return base if options.base == "bfloat16" else quantize_params(base, options.base)

    def make_state(base, reward_BK):
        params = {"decoder": init_adapters(jax.random.key(1), base, LORA), "critic": init_critic(jax.random.key(2))}
        return init_state(params, optimizer, method.init(reward_BK), jax.random.key(3))

    base = jax.eval_shape(make_base)
    state = jax.eval_shape(make_state, base, scored.reward_BK)
    update = make_update(
        method,
        make_policy_fn(lm, temperature=0.7, critic_fn=critic_fn),
        optimizer,
        end_id=2,
        micro_batches=options.micro_batches,
        join_fn=make_lora_join(LORA),
    )
    device = topologies.get_topology_desc(platform="tpu", topology_name=options.topology).devices[0]
    place = jax.sharding.SingleDeviceSharding(device)
    began = time.perf_counter()
    arguments = (state, {"decoder": base, "critic": state.params["critic"]}, scored)
    compiled = jax.jit(update, donate_argnums=0, in_shardings=place, out_shardings=place).lower(*arguments).compile()
    found = compiled.memory_analysis()
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))  # noqa: E731
    print(
        json.dumps(
            {
                "base": options.base,
                "rows": options.rows,
                "micro_batches": options.micro_batches,
                "topology": options.topology,
                "base_bytes": size(base),
                "adapter_bytes": size(state.params["decoder"]),
                "argument_bytes": found.argument_size_in_bytes,
                "temporary_bytes": found.temp_size_in_bytes,
                "sum_gb": (found.argument_size_in_bytes + found.temp_size_in_bytes) / 1e9,
                "compile_seconds": round(time.perf_counter() - began, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
