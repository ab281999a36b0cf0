"""Metrics of a run on disk: one JSON line a step, TensorBoard beside it, samples as text; and reading them back.

Names are flat, slashes group them, and they are those that TRL's users know:

    reward, reward_std, rewards/<name>/{mean,std}    kl, entropy, loss, grad_norm
    clip_ratio/{low,high,region}_mean, ratio_mean    frac_reward_zero_std
    completions/{mean,min,max}_length                completions/clipped_ratio
    moo/weights/<signal>, moo/weights_std/<signal>   moo/cosine/<a>_<b>, control/error
    kl_weight, critic_loss/<head>                    oracle/<figure>, judge/<figure> now and then
    seconds/{host,rollout,reward,update}             tokens_per_second/{rollout,update}
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from visa_jax.config import UserError

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"


class MetricsWriter:
    """Writes `workdir/metrics.jsonl`, `workdir/samples.jsonl` and TensorBoard events in `workdir/tensorboard`.

    Args:
      workdir: directory of the run; made when missing.
      resume_step: what lies there after this step is cut away (a resumed run writes it again); None starts anew.
      tensorboard: also write TensorBoard events.
    """

    def __init__(self, workdir: str | Path, *, resume_step: int | None = None, tensorboard: bool = True):
        self.workdir = Path(workdir)
        self.workdir.mkdir(parents=True, exist_ok=True)
        last_step = -1 if resume_step is None else resume_step
        self._metrics = _open_after(self.workdir / METRICS_FILE, last_step)
        self._samples = _open_after(self.workdir / SAMPLES_FILE, last_step)
        self._events = _open_tensorboard(self.workdir / "tensorboard", last_step) if tensorboard else None

    def write(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Append one line `{"step": step, name: number, ...}`; arrays of one entry become floats. Returns them."""
        numbers = {name: scalar(name, value) for name, value in metrics.items()}
        # JSON has no NaN: null stands for it, read_metrics turns it back.
        finite = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        _append(self._metrics, {"step": int(step), **finite})
        if self._events is not None:
            for name, number in numbers.items():
                self._events.add_scalar(name, number, int(step))
        return numbers

    def write_samples(self, step: int, samples: Iterable[Mapping[str, Any]]) -> None:
        """Append one line for each sample (texts, conditions, rewards: anything JSON can hold)."""
        for sample in samples:
            _append(self._samples, {"step": int(step), **sample})

    def close(self) -> None:
        self._metrics.close()
        self._samples.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class CompileCounter:
    """Counts what XLA compiles inside a `with` block, by the name of the function: `names` in order, `count`.

    Eager operations compile as well, once per shape.
    """

    EVENT = "/jax/core/compile/backend_compile_duration"

    def __init__(self) -> None:
        self.names: list[str] = []

    @property
    def count(self) -> int:
        return len(self.names)

    def reset(self) -> None:
        self.names.clear()

    def __enter__(self) -> "CompileCounter":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *exception: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, _seconds: float, **details: object) -> None:
        if event == self.EVENT:
            self.names.append(str(details.get("fun_name", "?")))


def read_metrics(workdir: str | Path) -> list[dict[str, float]]:
    """The lines of `workdir/metrics.jsonl` in order; null is NaN. UserError when there is no such file."""
    path = Path(workdir) / METRICS_FILE
    if not path.is_file():
        raise UserError(f"{path}: no metrics (not a run, or it never finished a step)")
    rows = (json.loads(line) for line in _whole_lines(path))
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]


def series(rows: Iterable[Mapping[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps (int64 [n]) and values (float64 [n]) of one metric, for the rows that have it."""
    pairs = [(row["step"], row[name]) for row in rows if name in row]
    return np.array([step for step, _ in pairs], np.int64), np.array([value for _, value in pairs], np.float64)


def check_finite(step: int, metrics: Mapping[str, Any], names: Iterable[str] = ("loss", "grad_norm")) -> None:
    """Stop the run when one of `names` is there and not finite: UserError `loss is NaN at step 17`."""
    for name in names:
        number = scalar(name, metrics.get(name, 0.0))
        if not math.isfinite(number):
            raise UserError(f"{name} is {'NaN' if math.isnan(number) else 'infinite'} at step {step}")


def scalar(name: str, value: Any) -> float:
    """`value` (number or array of one entry, on any device) as a float; ValueError naming the metric otherwise."""
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"metric {name}: expected one number, got shape {array.shape}")
    return float(array.reshape(()))


def _open_tensorboard(directory: Path, last_step: int) -> Any:
    from tensorboardX import SummaryWriter  # here: 0.2 s that commands without training need not spend

    # purge_step makes TensorBoard hide what an interrupted run wrote after its last checkpoint.
    return SummaryWriter(str(directory), purge_step=last_step + 1, flush_secs=30)


def _open_after(path: Path, last_step: int) -> Any:
    """Open for appending, with only the lines of steps up to `last_step` kept."""
    if path.is_file():
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= last_step]
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
    return path.open("a", encoding="utf-8")


def _whole_lines(path: Path) -> list[str]:
    """The lines that were written to their end: a killed run may leave half a line."""
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _append(file: Any, row: dict) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()
