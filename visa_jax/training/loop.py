"""The RL loop: prompts -> rollout -> rewards -> update, for either method.

The journey of one step (everything is a function of the run's key and the step number, so a resumed run draws
what an unbroken one would have drawn):

1. ``prompts_fn(key, step)``   host: rows of the data, conditions drawn and written into prompts   -> PromptBatch
2. ``generate``                device: G completions a prompt                                      -> Rollout
3. ``stack_rewards``           device: K rewards, nothing mixed; ``score_texts``, host: those of texts -> Scored
4. ``make_update``             device: combine, loss, gradient, optimizer                          -> TrainState
5. metrics, samples, checkpoint; now and then an evaluation by the oracle
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from visa_jax.parallel import MeshConfig
from visa_jax.rewards.base import score_texts
from visa_jax.training.experiment import Experiment, LoopConfig
from visa_jax.training.meshed import make_meshed, start_meshed
from visa_jax.training.metrics import check_finite
from visa_jax.training.placement import require_all_devices
from visa_jax.training.pmapped import make_pmapped
from visa_jax.training.programs import Programs, make_jitted, run_optimizer
from visa_jax.training.state import init_state
from visa_jax.types import Params, TrainState


def make_programs(experiment: Experiment, config: LoopConfig, state: TrainState) -> Programs:
    """Jit (or pmap) at the edge, by ``config.mesh``. The update donates the old state.

    Args:
      state: the state at the start, for its structure.

    Raises:
      FieldError: sizes that do not divide into the mesh.
    """
    require_all_devices(config.mesh, "loop.mesh")
    if config.mesh.way != "jit":
        return make_pmapped(experiment, config, state)
    return (make_meshed if is_meshed(config.mesh) else make_jitted)(experiment, config, state)


def is_meshed(mesh: MeshConfig) -> bool:
    """Whether programs are jitted for several devices."""
    return mesh.way == "jit" and mesh != MeshConfig()


class Hooks(NamedTuple):
    """What the loop tells the outside; each may do nothing."""

    on_metrics: Callable[[int, dict[str, float]], None]  # every step
    on_samples: Callable[[int, object], None]  # (step, Scored) at every evaluation
    on_checkpoint: Callable[[int, TrainState], None]
    should_stop: Callable[[], bool]  # asked after every step (Ctrl-C, SIGTERM)


def start(experiment: Experiment, config: LoopConfig, params: Params, method_state, key: jax.Array) -> TrainState:
    """The state at step 0. Copied, for the update donates its state.

    Put on the device explicitly, as what comes out of the update is: else each program compiles again at step 2. On a
    mesh it is laid out there; under pmap ``train`` does that, and checkpoints hold it as it is on one device.
    """
    if is_meshed(config.mesh):
        return start_meshed(experiment, config, params, method_state, key)
    params, method_state = jax.tree.map(jax.numpy.copy, (params, method_state))
    return jax.device_put(init_state(params, run_optimizer(config), method_state, key), jax.local_devices()[0])


def train(
    experiment: Experiment,
    config: LoopConfig,
    state: TrainState,
    ref_params: Params,
    hooks: Hooks,
    programs: Programs | None = None,
) -> TrainState:
    """Run the steps that are left (``state.step`` tells where to go on) and return the last state.

    Args:
      state: of ``start`` or a checkpoint; it is used up.
      ref_params: of the reference, as ``params`` at the start.
      programs: of ``make_programs``, where the caller has made them already.

    Raises:
      UserError: a metric of the update is not finite; names the step and the metric.
    """
    step, key = int(state.step), jax.random.wrap_key_data(np.asarray(jax.random.key_data(state.key)))
    programs = make_programs(experiment, config, state) if programs is None else programs
    state, ref_params = programs.put_state(state), programs.put_params(ref_params)
    reward_params = programs.put_rewards(tuple(reward.params for reward in experiment.rewards))
    ended = time.perf_counter()  # when the devices were last done
    while step < config.steps:
        step_key = jax.random.fold_in(key, step)
        prompt_key, sample_key = jax.random.split(step_key)
        prompts = programs.put_prompts(experiment.prompts_fn(prompt_key, step, programs.own_prompts))
        times = [ended, time.perf_counter()]
        rollout = jax.block_until_ready(programs.rollout(state.params, ref_params, prompts, sample_key))
        times.append(time.perf_counter())
        scored = jax.block_until_ready(programs.score(reward_params, rollout))
        scored = score_texts(experiment.rewards, scored, experiment.texts_fn, programs.take_rows)
        times.append(time.perf_counter())
        state, metrics = programs.update(state, ref_params, scored)
        metrics = {name: float(value) for name, value in metrics.items()}
        ended = time.perf_counter()
        times.append(ended)
        check_finite(step, metrics, ("loss", "grad_norm", "reward"))
        metrics |= _speed(np.diff(times), int(rollout.mask_BT.sum()))
        step += 1
        if config.evaluate_every and (step % config.evaluate_every == 0 or step == config.steps):
            if experiment.evaluate_fn is not None:
                metrics |= experiment.evaluate_fn(
                    experiment.join_fn(*map(programs.take_params, (state.params, ref_params)))
                )
            hooks.on_samples(step, programs.take_rows(scored))
        hooks.on_metrics(step, metrics)
        stop = hooks.should_stop()
        if stop or step == config.steps or (config.checkpoint_every and step % config.checkpoint_every == 0):
            hooks.on_checkpoint(step, programs.take_state(state))
        if stop:
            break
    return programs.take_state(state)


def _speed(seconds: np.ndarray, tokens: int) -> dict[str, float]:
    host, rollout, reward, update = (float(s) for s in seconds)
    return {
        "seconds/host": host,  # prompts; and what followed the step before: metrics, judging, saving as far as it waits
        "seconds/rollout": rollout,
        "seconds/reward": reward,
        "seconds/update": update,
        "tokens_per_second/rollout": tokens / rollout,
        "tokens_per_second/update": tokens / update,
    }
