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
from visa_jax.training.placement import ONE_DEVICE, Layout, place
from visa_jax.training.update import whole
from visa_jax.types import Array, Params, record


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


EVALUATIONS = 1024  # that a run with early stopping can hold


class Stopper(NamedTuple):
    """Early stopping: measure ``held_out(params)`` every ``every`` steps, stop after ``patience`` without a new low."""

    held_out: Callable[[Params], float]
    every: int
    patience: int


@record
class FitState:
    """Everything that a step changes, and what early stopping remembers."""

    step: Array  # int32 []
    params: Params
    opt_state: Any
    best: Params  # those of the lowest held-out loss; {} without early stopping
    held_out_E: Array  # float32: that loss at each evaluation, NaN = none yet; as long for any number of steps


class FitHooks(NamedTuple):
    """What the loop tells the outside; each may do nothing."""

    on_step: Callable[[int, dict], None] = lambda step, metrics: None  # metrics as floats
    on_checkpoint: Callable[[int, FitState], None] = lambda step, state: None
    checkpoint_every: int = 0  # steps; 0 = only where the run ends
    should_stop: Callable[[], bool] = lambda: False  # asked after every step (Ctrl-C, SIGTERM)


NO_HOOKS = FitHooks()


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


def start_fit(
    task: Task,
    config: FitConfig,
    key: jax.Array,
    *,
    params: Params | None = None,
    stopper: Stopper | None = None,
    layout: Layout = ONE_DEVICE,
) -> FitState:
    """The state at step 0.

    Args:
      params: where to start (copied, for ``fit`` uses its state up); None draws them, each twin its own.
      layout: where everything lies; nothing is whole on a device that need not be.

    Raises:
      FieldError: sizes that do not divide into the mesh, with both numbers.
    """
    layout.require_rows(config.batch_size, "role.fit.batch_size")
    if stopper:
        count = config.steps // stopper.every
        require(count <= EVALUATIONS, "evaluate_every", f"{count} evaluations are more than the {EVALUATIONS} kept")
    optimizer = make_optimizer(config.optimizer, config.steps)
    init, init_moments = (jax.vmap(fn) if task.twins else fn for fn in (task.init, optimizer.init))
    keys = jax.random.split(key, task.twins) if task.twins else key

    def begin(params: Params) -> FitState:
        copy = jax.tree.map(jnp.copy, params) if stopper else {}
        losses = jnp.full(EVALUATIONS if stopper else 1, jnp.nan)
        return FitState(step=jnp.int32(0), params=params, opt_state=init_moments(params), best=copy, held_out_E=losses)

    held = layout.held(jax.eval_shape(begin, jax.eval_shape(init, keys) if params is None else params))
    if params is None:
        params = layout.program(init, held and held.params)(keys)
    else:
        params = jax.tree.map(jnp.copy, params if held is None else place(params, held.params))
    return layout.program(begin, held, donate_argnums=0)(params)


def fit(
    task: Task,
    config: FitConfig,
    state: FitState,
    *,
    stopper: Stopper | None = None,
    hooks: FitHooks = NO_HOOKS,
    layout: Layout = ONE_DEVICE,
) -> tuple[FitState, dict]:
    """Train a task, as far as ``state`` has not; returns the last state and a summary. What was learned: ``learned``.

    Args:
      state: of ``start_fit`` or a checkpoint; it is used up.
      layout: that of the state.

    Raises:
      UserError: the loss is not finite; names the step.
    """
    held, everywhere = layout.held(state), layout.everywhere()
    out = None if held is None else (held.params, held.opt_state, everywhere)
    step_fn = layout.program(
        make_step(task, make_optimizer(config.optimizer, config.steps)), out, donate_argnums=(0, 1)
    )
    params, opt_state, best = state.params, state.opt_state, state.best
    held_out_E, step = np.array(state.held_out_E), int(state.step)
    pending, started = None, time.perf_counter()

    def now() -> FitState:
        told = layout.put_whole((jnp.int32(step), jnp.asarray(held_out_E)))
        return FitState(step=told[0], params=params, opt_state=opt_state, best=best, held_out_E=told[1])

    def done() -> bool:
        return step >= config.steps or (stopper is not None and _exhausted(held_out_E, stopper))

    ended = done()
    while not ended:
        batch = layout.put_rows(task.batch(step), axis=1 if task.twins else 0)
        params, opt_state, metrics = step_fn(params, opt_state, batch, task.frozen)
        _report(pending, hooks)  # of the step before: the device is busy with this one
        pending = (step, metrics)
        step += 1
        if stopper and step % stopper.every == 0:
            number = step // stopper.every - 1
            held_out_E[number] = loss = stopper.held_out(params)
            check_finite(step, {"held_out_loss": loss}, ("held_out_loss",))
            if loss < np.min(held_out_E[:number], initial=np.inf):
                best = jax.tree.map(jnp.copy, params)
        ended = hooks.should_stop() or done()  # processes ask together, so they always ask
        if ended or (hooks.checkpoint_every and step % hooks.checkpoint_every == 0):
            pending = _report(pending, hooks)  # a loss that is not finite ends the run before it is kept
            hooks.on_checkpoint(step, now())
    measured = np.flatnonzero(np.isfinite(held_out_E))
    told = [((int(i) + 1) * stopper.every, float(held_out_E[i])) for i in measured] if stopper else []
    return now(), {"steps": step, "seconds": time.perf_counter() - started, "held_out": told}


def learned(state: FitState) -> Params:
    """What a run keeps: the parameters of the lowest held-out loss, else the last."""
    return state.best if np.isfinite(np.asarray(state.held_out_E)).any() else state.params


def _exhausted(held_out_E: np.ndarray, stopper: Stopper) -> bool:
    """Whether there was no new low at the last ``patience`` evaluations."""
    losses_E = held_out_E[np.isfinite(held_out_E)]
    return len(losses_E) > 0 and len(losses_E) - 1 - np.argmin(losses_E) >= stopper.patience


def _report(pending: tuple[int, dict] | None, hooks: FitHooks) -> None:
    if pending is None:
        return
    step, metrics = pending
    metrics = {name: float(np.mean(value)) for name, value in metrics.items()}
    check_finite(step, metrics)
    hooks.on_step(step, metrics)


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
