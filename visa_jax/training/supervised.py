"""Supervised training of every part that is not trained by RL: base LM, detector, translator, analyzer, rewards, SFT.

One loop for all: a task names its loss, its batches and its held-out measure; ``twins`` trains several copies at once
under vmap (a reward model and the held-out judge of the same kind, with other seeds and other data).
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from visa_jax.config import require
from visa_jax.training.metrics import check_finite
from visa_jax.training.optimizer import OptimizerConfig, make_optimizer
from visa_jax.training.update import whole
from visa_jax.types import Params


class Task(NamedTuple):
    """What a supervised run needs to know. ``batch(step)`` is a function of the step alone, so runs can resume."""

    name: str
    init: Callable[[jax.Array], Params]  # key -> params
    loss: Callable[[Params, Any], tuple]  # (params, batch) -> (WeightedSum, metrics of WeightedSum)
    batch: Callable[[int], Any]  # step -> pytree of numpy arrays; with twins: a leading twin axis
    twins: int = 0  # 0: one model; n: n models side by side, params and batches have a leading axis
    frozen: Params | None = None  # what is not trained: data of the programs, for a constant would be compiled in
    join: Callable[[Params, Params], Params] = whole  # (params, frozen) -> what the loss takes


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How long a supervised run lasts."""

    steps: int = 400
    batch_size: int = 64
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, decay="cosine", weight_decay=0.01)

    def __post_init__(self):
        require(self.steps >= 1, "steps", "must be at least 1")
        require(self.batch_size >= 1, "batch_size", "must be at least 1")


class Stopper(NamedTuple):
    """Early stopping: measure ``held_out(params)`` every ``every`` steps, stop after ``patience`` without a new low."""

    held_out: Callable[[Params], float]
    every: int
    patience: int


def make_step(task: Task, optimizer: optax.GradientTransformation) -> Callable:
    """``step(params, opt_state, batch, frozen) -> (params, opt_state, metrics)``; pure, jitted by ``fit``."""

    def single(params, opt_state, batch, frozen):
        def loss_fn(params):
            total, sums = task.loss(task.join(params, frozen), batch)
            return total.mean(), sums | {"loss": total}

        grads, sums = jax.grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        metrics = {name: value.mean() for name, value in sums.items()} | {"grad_norm": optax.tree.norm(grads)}
        return optax.apply_updates(params, updates), opt_state, metrics

    return jax.vmap(single, in_axes=(0, 0, 0, None)) if task.twins else single


def fit(
    task: Task,
    config: FitConfig,
    key: jax.Array,
    *,
    params: Params | None = None,
    stopper: Stopper | None = None,
    on_step: Callable[[int, dict], None] | None = None,
) -> tuple[Params, dict]:
    """Train a task; returns the parameters (the best by ``stopper`` where there is one) and a summary.

    Args:
      params: where to start; None draws them (each twin its own).
      on_step: called with (step, metrics as floats) for progress and logs; may raise to stop.

    Raises:
      UserError: the loss is not finite; names the step.
    """
    optimizer = make_optimizer(config.optimizer, config.steps)
    if params is None:
        keys = jax.random.split(key, task.twins) if task.twins else key
        params = jax.jit(jax.vmap(task.init) if task.twins else task.init)(keys)
    opt_state = jax.jit(jax.vmap(optimizer.init) if task.twins else optimizer.init)(params)
    step_fn = jax.jit(make_step(task, optimizer), donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, params)  # the caller's start is not donated away
    best, best_params, bad, history, started = np.inf, None, 0, [], time.perf_counter()
    pending, step = None, 0
    for step in range(config.steps):
        params, opt_state, metrics = step_fn(params, opt_state, task.batch(step), task.frozen)
        _report(pending, on_step)  # of the step before: the device is busy with this one
        pending = (step, metrics)
        if stopper and (step + 1) % stopper.every == 0:
            loss = float(stopper.held_out(params))
            history.append((step + 1, loss))
            if loss < best:
                best, best_params, bad = loss, jax.tree.map(np.asarray, params), 0
            else:
                bad += 1
            if bad >= stopper.patience:
                break
    _report(pending, on_step)
    summary = {"steps": step + 1, "seconds": time.perf_counter() - started, "held_out": history}
    return (params if best_params is None else jax.tree.map(jnp.asarray, best_params)), summary


def _report(pending, on_step) -> None:
    if pending is None:
        return
    step, metrics = pending
    metrics = {name: float(np.mean(value)) for name, value in metrics.items()}
    check_finite(step, metrics)
    if on_step:
        on_step(step, metrics)


def twin(params: Params, index: int) -> Params:
    """One of the models that were trained side by side."""
    return jax.tree.map(lambda x: x[index], params)


def row_batches(arrays: dict[str, np.ndarray], batch_size: int, seed: int) -> Callable[[int], dict]:
    """``batch(step)``: rows drawn in seeded epochs (every row once before any row twice), from (seed, step) alone."""
    rows = len(next(iter(arrays.values())))

    def batch(step: int) -> dict[str, np.ndarray]:
        place = np.arange(step * batch_size, (step + 1) * batch_size)
        index = np.empty(batch_size, np.int64)
        for epoch in np.unique(place // rows):
            order = np.random.default_rng((seed, int(epoch))).permutation(rows)
            here = place // rows == epoch
            index[here] = order[place[here] % rows]
        return {name: array[index] for name, array in arrays.items()}

    return batch


def twin_batches(batches: list[Callable[[int], dict]]) -> Callable[[int], dict]:
    """One batch function per twin -> one with a leading twin axis."""

    def batch(step: int) -> dict[str, np.ndarray]:
        each = [make(step) for make in batches]
        return {name: np.stack([b[name] for b in each]) for name in each[0]}

    return batch
