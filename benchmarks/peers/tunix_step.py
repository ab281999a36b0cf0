"""One process of google-tunix 0.1.7 for ``grpo_step.py``: its own GRPOLearner on a workload, on CPU.

    benchmarks/peers/.venv-tunix/bin/python benchmarks/peers/tunix_step.py --workload=M

Prints one JSON line. Rollout (its "vanilla" engine), reference and update are timed by wrapping the cluster's methods,
each until its arrays are there; tunix itself waits for them at these places on one device. ``eos_tokens`` and the
tokenizer's end are an id that the model cannot produce.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import optax
from flax import nnx
from workloads import (
    BETA,
    CLIP_NORM,
    LEARNING_RATE,
    TEMPERATURE,
    Timer,
    parse,
    record,
    reward,
    show,
)


class WordTokenizer:
    """What tunix asks of a tokenizer; words are split at spaces."""

    def __init__(self, sizes):
        self.ids = sizes.words()
        self.names = list(self.ids)
        self.end = sizes.end_id

    def encode(self, text, **_):
        return [self.ids[word] for word in text.split()]

    def decode(self, ids, **_):
        return " ".join(self.names[i] for i in ids)

    def bos_id(self):
        return None  # no begin token: tunix would make the prompt one longer

    def eos_id(self):
        return self.end

    def pad_id(self):
        return 0


def make_model(sizes, seed: int):
    from tunix.models.qwen2 import model

    config = model.ModelConfig(
        num_layers=sizes.layers,
        vocab_size=sizes.vocabulary,
        embed_dim=sizes.width,
        hidden_dim=sizes.mlp_width,
        num_heads=sizes.heads,
        head_dim=sizes.head_dim,
        num_kv_heads=sizes.kv_heads,
        rope_theta=10_000,
        norm_eps=1e-5,
        use_tied_embedding=True,
    )
    return model.Qwen2(config, rngs=nnx.Rngs(seed))


def run(sizes, steps: int) -> dict:
    import tunix
    from tunix.rl import rl_cluster
    from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
    from tunix.rl.rollout.base_rollout import RolloutConfig

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    optimizer = optax.chain(
        optax.clip_by_global_norm(CLIP_NORM), optax.adamw(LEARNING_RATE, b1=0.9, b2=0.99, weight_decay=0.0)
    )
    with mesh:
        actor, reference = make_model(sizes, 0), make_model(sizes, 0)
        cluster = rl_cluster.RLCluster(
            actor=actor,
            reference=reference,
            tokenizer=WordTokenizer(sizes),
            cluster_config=rl_cluster.ClusterConfig(
                role_to_mesh={role: mesh for role in rl_cluster.Role},
                rollout_engine="vanilla",
                training_config=rl_cluster.RLTrainingConfig(
                    actor_optimizer=optimizer,
                    eval_every_n_steps=10**9,
                    max_steps=steps + 1,
                    mini_batch_size=sizes.prompts,
                    train_micro_batch_size=sizes.prompts,
                ),
                rollout_config=RolloutConfig(
                    max_tokens_to_generate=sizes.completion,
                    max_prompt_length=sizes.prompt,
                    kv_cache_size=sizes.prompt + sizes.completion + 1,
                    temperature=TEMPERATURE,
                    top_p=1.0,
                    top_k=None,
                    eos_tokens=[sizes.end_id],
                ),
            ),
        )
        learner = GRPOLearner(
            rl_cluster=cluster,
            algo_config=GRPOConfig(num_generations=sizes.group, num_iterations=1, beta=BETA, epsilon=0.2),
            reward_fns=lambda prompts, completions, **_: [reward(text) for text in completions],
        )
        timer, lengths = Timer(), []

        def waited(output):
            lengths.extend(len(tokens) for tokens in output.tokens)
            return output

        cluster.generate = timer.wrap("rollout", cluster.generate, waited)
        cluster.get_ref_per_token_logps = timer.wrap(
            "reference", cluster.get_ref_per_token_logps, jax.block_until_ready
        )
        global_step = learner._run_global_step

        def timed_step(*args, **kwargs):
            began = time.perf_counter()
            global_step(*args, **kwargs)
            jax.block_until_ready(nnx.state(cluster.actor_trainer.model, nnx.Param))
            timer.end_step(time.perf_counter() - began)

        learner._run_global_step = timed_step
        learner.train([{"prompts": np.array(sizes.texts(step))} for step in range(steps + 1)])
    assert set(lengths) == {sizes.completion}, f"completions of {set(lengths)} tokens"
    return record(sizes, timer.steps, {"google-tunix": tunix.__version__, "jax": jax.__version__})


if __name__ == "__main__":
    options = parse(__doc__)
    show(run(options.sizes, options.steps))
