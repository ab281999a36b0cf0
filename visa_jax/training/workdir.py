"""Training in a workdir: what is kept of a run while it lasts, and how it goes on after whatever ended it."""

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from visa_jax.checkpoint import Checkpoints, is_key
from visa_jax.parallel import multihost
from visa_jax.training.experiment import Experiment, LoopConfig
from visa_jax.training.loop import Hooks, make_programs, train
from visa_jax.training.metrics import MetricsWriter
from visa_jax.training.placement import ONE_DEVICE, Layout
from visa_jax.training.progress import Progress, StopRequest, graceful_stop
from visa_jax.training.supervised import FitConfig, FitHooks, FitState, Stopper, Task, fit
from visa_jax.types import Params, Scored, TrainState

COMPILING_STEPS = 2  # of a start, not worth a trace
FIT_LINES = 10  # steps of a supervised part for a line of metrics


def train_in(
    workdir: str | Path,
    experiment: Experiment,
    config: LoopConfig,
    state: TrainState,
    ref_params: Params,
    *,
    title: str | None = None,
    samples_fn: Callable[[Scored], list[dict]] | None = None,
    profile_steps: int = 0,
) -> TrainState:
    """``loop.train`` from the newest whole checkpoint of ``workdir`` (or ``state``), with everything that is kept.

    All processes of a run call it; process 0 writes metrics and samples, each its part of a checkpoint.

    Raises:
      Preempted, KeyboardInterrupt: SIGTERM or Ctrl-C came to any process; the step was finished and saved.
      UserError: a checkpoint could not be written, or those that are there do not fit or are all damaged.
    """
    workdir, primary = Path(workdir), multihost.is_primary()
    checkpoints = Checkpoints(workdir, keep_last=config.keep_last, keep_best=config.keep_best)
    programs = make_programs(experiment, config, state)
    newest: dict[str, float] = {}
    resumed = checkpoints.newest() is not None
    if resumed:
        state = checkpoints.restore_newest(_shapes(programs.take_state(programs.put_state(state)), state))
        newest[config.best_metric] = checkpoints.score(int(state.step))
    first = int(state.step)
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoints.close)
        if primary:
            writer = stack.enter_context(MetricsWriter(workdir, resume_step=first if resumed else None))
            progress = stack.enter_context(Progress(title or workdir.name, config.steps, start=first))
        trace = stack.enter_context(Trace(workdir / "profile", first + COMPILING_STEPS, profile_steps))
        stop = stack.enter_context(graceful_stop())

        def on_metrics(step: int, metrics: dict) -> None:
            newest.update(metrics)
            trace.step_done(step)
            checkpoints.check()
            if primary:
                writer.write(step, metrics)
                progress.update(step, reward=metrics["reward"], kl=metrics["kl"], grad_norm=metrics["grad_norm"])

        def on_samples(step: int, scored: Scored) -> None:
            if primary and samples_fn is not None:
                writer.write_samples(step, samples_fn(scored))

        hooks = Hooks(
            on_metrics=on_metrics,
            on_samples=on_samples,
            on_checkpoint=lambda step, state: checkpoints.save(step, state, newest.get(config.best_metric)),
            should_stop=lambda: multihost.any_process(bool(stop)),
        )
        state = train(experiment, config, state, ref_params, hooks, programs)
        checkpoints.wait()
        step = int(state.step)
        if step < config.steps:
            _finish(stop, _saved(step, workdir))
    return state


def fit_in(
    workdir: str | Path,
    task: Task,
    config: FitConfig,
    state: FitState,
    *,
    stopper: Stopper | None = None,
    layout: Layout = ONE_DEVICE,
    checkpoint_every: int = 0,
) -> tuple[FitState, dict]:
    """``supervised.fit`` from the newest whole checkpoint of ``workdir`` (or ``state``), with what is kept meanwhile.

    All processes of a run call it. Without ``checkpoint_every`` (steps) there are no checkpoints: what is stopped is
    lost. Raises as ``train_in``, and UserError as ``fit``.
    """
    workdir, primary = Path(workdir), multihost.is_primary()
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(workdir) if checkpoint_every else None
        if checkpoints is not None:
            stack.callback(checkpoints.close)
            if checkpoints.newest() is not None:
                state = checkpoints.restore_newest(_shapes(state))
        first = int(state.step)
        if primary:
            # the line of a step bears its number before it is counted
            writer = stack.enter_context(MetricsWriter(workdir, tensorboard=False, resume_step=first - 1))
            progress = stack.enter_context(Progress(task.name, config.steps, start=first))
        stop = stack.enter_context(graceful_stop())

        def on_step(step: int, metrics: dict) -> None:
            if checkpoints is not None:
                checkpoints.check()
            if primary:
                progress.update(step + 1, loss=metrics["loss"])
                if step % FIT_LINES == 0 or step + 1 == config.steps:
                    writer.write(step, metrics)

        hooks = FitHooks(
            on_step=on_step,
            on_checkpoint=checkpoints.save if checkpoints is not None else lambda step, state: None,
            checkpoint_every=checkpoint_every,
            should_stop=lambda: multihost.any_process(bool(stop)),
        )
        state, summary = fit(task, config, state, stopper=stopper, hooks=hooks, layout=layout)
        if checkpoints is not None:
            checkpoints.wait()
        if summary["steps"] < config.steps and multihost.any_process(bool(stop)):
            nothing = f"nothing was kept in {workdir}; config.checkpoint_every = N keeps every N steps"
            _finish(stop, nothing if checkpoints is None else _saved(summary["steps"], workdir))
    return state, summary


def _shapes(state: Any, start: Any = None) -> Any:
    """What a checkpoint is read as; ``state`` (and ``start``, which it was laid out from) is let go before.

    Somebody up the stack still names them, and a run that goes on must not need more memory than one that begins.
    """

    def shape(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or is_key(leaf):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    shapes = jax.tree.map(shape, state)
    for leaf in jax.tree.leaves((state, start)):
        if isinstance(leaf, jax.Array) and not is_key(leaf) and not leaf.is_deleted():
            leaf.delete()
    return shapes


def _saved(step: int, workdir: Path) -> str:
    return f"saved step {step} in {workdir}; the same command goes on from there"


def _finish(stop: StopRequest, message: str) -> None:
    """Leave as the process that was told to: the others were told by it."""
    stop.finish(message, preempted=multihost.any_process(stop.signum == signal.SIGTERM))


class Trace:
    """A profiler trace of some steps, for TensorBoard or Perfetto; each process writes a directory of its own.

    Args:
      directory: made when there is something to trace.
      after: the step after which it begins.
      steps: how many; 0 = none.
    """

    def __init__(self, directory: Path, after: int, steps: int):
        several = jax.process_count() > 1
        self.directory = directory / f"process_{jax.process_index()}" if several else directory
        self.first, self.last = after, after + steps
        self._open = False

    def step_done(self, step: int) -> None:
        if step == self.first < self.last:
            jax.profiler.start_trace(str(self.directory))
            self._open = True
        if step == self.last:
            self.close()

    def close(self) -> None:
        if self._open:
            jax.profiler.stop_trace()
            self._open = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
