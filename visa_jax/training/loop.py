"""The RL loop: prompts -> rollout -> rewards -> update, for either method.

The journey of one step (everything is a function of the run's key and the step number, so a resumed run draws
what an unbroken one would have drawn):

1. ``prompts_fn(key, step)``   host: rows of the data, conditions drawn and written into prompts   -> PromptBatch
2. ``generate``                device: G completions a prompt                                      -> Rollout
3. ``stack_rewards``           device: K rewards, nothing mixed                                    -> Scored
4. ``make_update``             device: combine, loss, gradient, optimizer                          -> TrainState
5. metrics, samples, checkpoint; now and then an evaluation by the oracle
"""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from visa_jax.config import require
from visa_jax.methods.base import Method
from visa_jax.rewards.base import Reward, stack_rewards
from visa_jax.rollout import generate
from visa_jax.training.metrics import check_finite
from visa_jax.training.optimizer import OptimizerConfig, make_optimizer
from visa_jax.training.state import init_state
from visa_jax.training.update import JoinFn, make_update, whole
from visa_jax.types import LanguageModel, Params, PromptBatch, TrainState


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Sizes of the RL loop."""

    steps: int = 200
    prompts_per_step: int = 16
    temperature: float = 1.0
    epochs: int = 1  # passes over the rows of a step
    minibatches: int = 1  # gradient steps a pass
    micro_batches: int = 1  # pieces of a minibatch computed one after the other: less memory, the same gradient
    evaluate_every: int = 25  # steps; 0 = never
    checkpoint_every: int = 100  # steps; 0 = only at the end
    optimizer: OptimizerConfig = OptimizerConfig()

    def __post_init__(self):
        require(self.steps >= 1, "steps", "must be at least 1")
        require(self.prompts_per_step >= 1, "prompts_per_step", "must be at least 1")
        require(self.temperature > 0, "temperature", "must be > 0 to sample")
        require(
            self.epochs >= 1 and self.minibatches >= 1 and self.prompts_per_step % self.minibatches == 0,
            "minibatches",
            f"{self.prompts_per_step} prompts a step do not divide into {self.minibatches} minibatches",
        )
        require(
            self.micro_batches >= 1 and self.prompts_per_step % (self.minibatches * self.micro_batches) == 0,
            "micro_batches",
            f"{self.prompts_per_step} prompts do not divide into {self.minibatches} x {self.micro_batches} pieces",
        )


class Experiment(NamedTuple):
    """Everything a run is made of, assembled by ``cli``."""

    method: Method
    lm: LanguageModel
    policy_fn: Callable  # training/policy.py
    rewards: tuple[Reward, ...]
    prompts_fn: Callable[[jax.Array, int], PromptBatch]  # (key, step) -> N prompts
    group_size: int
    max_new_tokens: int
    end_id: int
    pad_id: int
    evaluate_fn: Callable[[Params], dict[str, float]] | None = None  # judged by the oracle; never a reward
    join_fn: JoinFn = whole  # (what is trained, reference params) -> the policy's params


class Programs(NamedTuple):
    """The jitted programs of a run; each compiles once for a run's shapes."""

    rollout: Callable  # (params, prompts, key) -> Rollout
    score: Callable  # (reward params, rollout) -> Scored
    update: Callable  # (state, ref params, scored) -> (state, metrics)


def make_programs(experiment: Experiment, config: LoopConfig, optimizer) -> Programs:
    """Jit at the edge: rollout, rewards and update of an experiment. The update donates the old state."""

    def rollout(params, prompts, key):
        return generate(
            experiment.lm,
            params["decoder"],
            prompts,
            key,
            group_size=experiment.group_size,
            max_new_tokens=experiment.max_new_tokens,
            temperature=config.temperature,
            end_id=experiment.end_id,
            pad_id=experiment.pad_id,
        )

    update = make_update(
        experiment.method,
        experiment.policy_fn,
        optimizer,
        end_id=experiment.end_id,
        epochs=config.epochs,
        minibatches=config.minibatches,
        micro_batches=config.micro_batches,
        join_fn=experiment.join_fn,
    )
    return Programs(
        rollout=jax.jit(rollout),
        score=jax.jit(stack_rewards(experiment.rewards)),
        update=jax.jit(update, donate_argnums=0),
    )


class Hooks(NamedTuple):
    """What the loop tells the outside; each may do nothing."""

    on_metrics: Callable[[int, dict[str, float]], None]  # every step
    on_samples: Callable[[int, object], None]  # (step, Scored) at every evaluation
    on_checkpoint: Callable[[int, TrainState], None]
    should_stop: Callable[[], bool]  # asked after every step (Ctrl-C, SIGTERM)


def start(experiment: Experiment, config: LoopConfig, params: Params, method_state, key: jax.Array) -> TrainState:
    """The state at step 0. Copied, for the update donates its state.

    Put on the device explicitly, as what comes out of the update is: else each program compiles again at step 2.
    """
    optimizer = make_optimizer(config.optimizer, config.steps * config.epochs * config.minibatches)
    params, method_state = jax.tree.map(jax.numpy.copy, (params, method_state))
    return jax.device_put(init_state(params, optimizer, method_state, key), jax.devices()[0])


def train(
    experiment: Experiment, config: LoopConfig, state: TrainState, ref_params: Params, hooks: Hooks
) -> TrainState:
    """Run the steps that are left (``state.step`` tells where to go on) and return the last state.

    Raises:
      UserError: a metric of the update is not finite; names the step and the metric.
    """
    optimizer = make_optimizer(config.optimizer, config.steps * config.epochs * config.minibatches)
    programs = make_programs(experiment, config, optimizer)
    reward_params = tuple(reward.params for reward in experiment.rewards)
    step = int(state.step)
    while step < config.steps:
        step_key = jax.random.fold_in(state.key, step)
        prompt_key, sample_key = jax.random.split(step_key)
        times = [time.perf_counter()]
        prompts = experiment.prompts_fn(prompt_key, step)
        policy_params = experiment.join_fn(state.params, ref_params)
        rollout = jax.block_until_ready(programs.rollout(policy_params, prompts, sample_key))
        times.append(time.perf_counter())
        scored = jax.block_until_ready(programs.score(reward_params, rollout))
        times.append(time.perf_counter())
        state, metrics = programs.update(state, ref_params, scored)
        metrics = {name: float(value) for name, value in metrics.items()}
        times.append(time.perf_counter())
        check_finite(step, metrics, ("loss", "grad_norm", "reward"))
        metrics |= _speed(np.diff(times), int(rollout.mask_BT.sum()))
        step += 1
        if config.evaluate_every and (step % config.evaluate_every == 0 or step == config.steps):
            if experiment.evaluate_fn is not None:
                metrics |= experiment.evaluate_fn(experiment.join_fn(state.params, ref_params))
            hooks.on_samples(step, scored)
        hooks.on_metrics(step, metrics)
        stop = hooks.should_stop()
        if stop or step == config.steps or (config.checkpoint_every and step % config.checkpoint_every == 0):
            hooks.on_checkpoint(step, state)
        if stop:
            break
    return state


def _speed(seconds: np.ndarray, tokens: int) -> dict[str, float]:
    rollout, reward, update = (float(s) for s in seconds)
    return {
        "seconds/rollout": rollout,
        "seconds/reward": reward,
        "seconds/update": update,
        "tokens_per_second/rollout": tokens / rollout,
        "tokens_per_second/update": tokens / update,
    }
