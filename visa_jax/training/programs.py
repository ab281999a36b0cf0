"""The programs of a run on one device, and the pieces that those on a mesh and under pmap are made of."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.rewards.base import stack_rewards
from visa_jax.rollout import generate
from visa_jax.training.experiment import Experiment, LoopConfig
from visa_jax.training.optimizer import make_optimizer
from visa_jax.training.update import make_update, split_rows
from visa_jax.types import TrainState


class Programs(NamedTuple):
    """The compiled programs of a run, each once for a run's shapes, and how their arrays are laid out."""

    rollout: Callable  # (trained params, ref params, prompts, key) -> Rollout
    score: Callable  # (reward params, rollout) -> Scored
    update: Callable  # (state, ref params, scored) -> (state, metrics); the old state is donated
    put_state: Callable = lambda state: state  # a TrainState on one device -> as the programs hold it
    put_params: Callable = lambda params: params  # reference params likewise
    put_rewards: Callable = lambda params: params
    put_prompts: Callable = lambda prompts: prompts
    own_prompts: np.ndarray | None = None  # which prompts of a step this process writes, for put_prompts; None: all
    take_state: Callable = lambda state: state  # back to whole arrays: what checkpoints see
    take_params: Callable = lambda params: params  # what evaluations see
    take_rows: Callable = lambda rows: rows  # this process's, for the host: what is read as text, what is shown


def make_rollout(experiment: Experiment, config: LoopConfig) -> Callable:
    """``rollout(trained, ref_params, prompts, key, places=None) -> Rollout``; pure."""

    batches, group_size = config.rollout_batches, experiment.group_size

    def rollout(trained, ref_params, prompts, key, places=None):
        params = experiment.join_fn(trained, ref_params)["decoder"]

        def draw(prompts, places):
            return generate(
                experiment.lm,
                params,
                prompts,
                key,
                group_size=group_size,
                max_new_tokens=experiment.max_new_tokens,
                temperature=config.temperature,
                end_id=experiment.end_id,
                pad_id=experiment.pad_id,
                places=places,
            )

        if batches == 1:
            return draw(prompts, places)
        count = len(prompts.prompt_NL)
        place_B, total = (jnp.arange(count * group_size), count * group_size) if places is None else places
        pieces = split_rows((prompts, place_B), count, batches)
        drawn = jax.lax.map(lambda piece: draw(piece[0], (piece[1], total)), pieces)
        return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), drawn)

    return rollout


def update_choices(experiment: Experiment, config: LoopConfig) -> dict:
    """The arguments of ``make_update`` that an experiment and its loop settle."""
    return dict(
        end_id=experiment.end_id,
        epochs=config.epochs,
        minibatches=config.minibatches,
        micro_batches=config.micro_batches,
        length_buckets=config.length_buckets,
        join_fn=experiment.join_fn,
    )


def make_jitted(experiment: Experiment, config: LoopConfig, state: TrainState) -> Programs:
    """The programs on one device."""
    del state  # its structure says nothing that is needed here
    choices = update_choices(experiment, config)
    update = make_update(experiment.method, experiment.policy_fn, run_optimizer(config), **choices)
    return Programs(
        rollout=jax.jit(make_rollout(experiment, config)),
        score=jax.jit(stack_rewards(experiment.rewards)),
        update=jax.jit(update, donate_argnums=0),
    )


def run_optimizer(config: LoopConfig, norm_fn: Callable | None = None):
    """The optimizer of a whole run; ``norm_fn`` is that of ``make_optimizer``."""
    return make_optimizer(config.optimizer, config.steps * config.epochs * config.minibatches, norm_fn)
