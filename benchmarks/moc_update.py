"""What min-norm costs: MOC's jitted update against linear PPO's, same rows, same K reward models, in one run.

    python benchmarks/moc_update.py [--rows=128] [--repeats=15]

Prints one JSON line: median seconds of each update (the calls alternate, so that a noisy machine is noisy for both)
and their ratio. MOC has K + 1 = 3 streams (reward, control, KL) where linear PPO has two; one backward pass in both.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np

from visa_jax.methods.moc import MocConfig, make_method
from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.models.heads import make_critic
from visa_jax.ops.conditions import two_decimal_preferences
from visa_jax.training.optimizer import OptimizerConfig, make_optimizer
from visa_jax.training.policy import make_policy_fn
from visa_jax.training.state import init_state
from visa_jax.training.update import make_update
from visa_jax.types import PromptBatch, Rollout, Scored

PROMPT, COMPLETION, VOCABULARY, GROUP = 16, 25, 635, 8


def make_scored(rows: int, preferences: np.ndarray) -> Scored:
    rng = np.random.default_rng(0)
    prompts = rows // GROUP
    batch = PromptBatch(
        prompt_NL=rng.integers(5, VOCABULARY, (prompts, PROMPT)).astype(np.int32),
        prompt_mask_NL=np.ones((prompts, PROMPT), bool),
        condition_NM=preferences[rng.integers(len(preferences), size=prompts)],
        context_NS=np.ones((prompts, 1), np.int32),
        context_mask_NS=np.ones((prompts, 1), bool),
    )
    shape = (rows, COMPLETION)
    rollout = Rollout(
        prompts=batch,
        completion_BT=rng.integers(5, VOCABULARY, shape).astype(np.int32),
        mask_BT=np.ones(shape, bool),
        logp_BT=np.full(shape, -3.0, np.float32),
    )
    return Scored(rollout=rollout, reward_BK=rng.uniform(size=(rows, 2)).astype(np.float32))


def make_call(name: str, changes: dict, scored: Scored, preferences: np.ndarray):
    """A function that runs one update and waits for it."""
    config = MocConfig(
        preferences=tuple(map(tuple, preferences.tolist())), num_generations=GROUP, advantage="gae", **changes
    )
    method = make_method(config)
    model = DecoderConfig(
        vocab_size=VOCABULARY, width=128, layers=3, heads=4, kv_heads=2, head_dim=32, mlp_width=384, scan_layers=False
    )
    lm, init = make_decoder(model)
    critic_fn, init_critic = make_critic(model.width, method.signals)
    params = {"decoder": init(jax.random.key(0)), "critic": init_critic(jax.random.key(1))}
    optimizer = make_optimizer(OptimizerConfig(), 100)
    policy_fn = make_policy_fn(lm, temperature=1.0, critic_fn=critic_fn)
    update = jax.jit(make_update(method, policy_fn, optimizer, end_id=2))
    state = init_state(params, optimizer, method.init(scored.reward_BK), jax.random.key(2))
    return lambda: jax.block_until_ready(update(state, params, scored))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128, help="completions of a step, a multiple of 8")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    preferences = two_decimal_preferences(0)
    scored = make_scored(options.rows, preferences)
    calls = {
        "linear_ppo": make_call("linear_ppo", {"signals": "linear", "weights": "uniform"}, scored, preferences),
        "moc": make_call("moc", {"signals": "bi", "weights": "min_norm"}, scored, preferences),
    }
    seconds = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles
    for _ in range(options.repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [moc / linear for moc, linear in zip(seconds["moc"], seconds["linear_ppo"], strict=True)]
    print(json.dumps({"rows": options.rows, **median, "ratio": statistics.median(ratios)}))


if __name__ == "__main__":
    main()
