"""Train a supervised part: base language model, detector, translator, Fact Analyzer, reward model, SFT policy.

visa-jax supervise --config=configs/detector.py:tiny --workdir=runs/detector
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from visa_jax.cli.flags import define_config, define_workdir
from visa_jax.cli.main import run
from visa_jax.cli.runs import open_run, save_run
from visa_jax.cli.sources import DataConfig, make_source
from visa_jax.config import from_config_dict, require, to_config_dict
from visa_jax.data.source import Source
from visa_jax.evaluation.parts import measure_part
from visa_jax.training.metrics import MetricsWriter
from visa_jax.training.progress import Progress, graceful_stop
from visa_jax.training.roles import ROLES, RoleConfig, held_out_loss, make_task, role_functions, solve_detector
from visa_jax.training.supervised import Stopper, fit, twin
from visa_jax.types import Params


@dataclasses.dataclass(frozen=True)
class SuperviseConfig:
    """One supervised run; ``start`` names the run whose parameters or trunk it starts from ("" = from nothing)."""

    role: RoleConfig
    data: DataConfig = DataConfig()
    start: str = ""
    patience: int = 0  # evaluations without a new low of the held-out loss before it stops; 0 = all steps
    evaluate_every: int = 50  # steps, with patience

    def __post_init__(self):
        require(self.patience >= 0, "patience", "must be >= 0")
        require(self.evaluate_every >= 1, "evaluate_every", "must be at least 1")


def define_flags(values: flags.FlagValues) -> None:
    define_config(values)
    define_workdir(values, "directory of the run")


def complete_config(config: ConfigDict) -> ConfigDict:
    """The page with every field that it leaves at its default, so that any of them can be changed by a flag."""
    return to_config_dict(from_config_dict(SuperviseConfig, config))


def main(values: flags.FlagValues, positional: list[str]) -> int:
    config = from_config_dict(SuperviseConfig, values.config)
    start = open_run(config.start, "config.start").params if config.start else None
    source = make_source(config.data)
    supervise(config, values.workdir, source, start)
    quality = json.loads((Path(values.workdir) / "quality.json").read_text())
    print(json.dumps({"workdir": values.workdir, **quality}))
    return 0


def supervise(config: SuperviseConfig, workdir: str | Path, source: Source, start: Params | None) -> Params:
    """Train one part, measure it on held-out rows, and keep it in ``workdir``.

    Args:
      start: trunk (or whole policy) parameters to begin with.

    Returns:
      The parameters; with twins they have a leading axis of 2.
    """
    workdir = Path(workdir)
    if config.role.ridge:
        started = time.perf_counter()
        params = solve_detector(config.role, source)
        summary = {"steps": 1, "seconds": time.perf_counter() - started, "held_out": []}
    else:
        params, summary = _fit(config, workdir, source, start)
    save_run(workdir, to_config_dict(config), source, params, summary["steps"])
    quality = {"steps": summary["steps"], "seconds": round(summary["seconds"], 1)}
    if summary["held_out"]:
        quality["held_out_loss"] = summary["held_out"]
    quality |= _measure(config.role, source, params)
    (workdir / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    return params


def _fit(config: SuperviseConfig, workdir: Path, source: Source, start: Params | None) -> tuple[Params, dict]:
    task = make_task(config.role, source, start)
    stopper = _stopper(config, source, task)
    steps = config.role.fit.steps
    with MetricsWriter(workdir, tensorboard=False) as writer, Progress(config.role.role, steps) as progress:
        with graceful_stop() as stop:

            def on_step(step: int, metrics: dict) -> None:
                progress.update(step + 1, loss=metrics["loss"])
                if step % 10 == 0 or step + 1 == steps:
                    writer.write(step, metrics)
                if stop:
                    stop.finish(f"nothing was kept in {workdir}; a supervised part is trained in one go")

            key = jax.random.key(config.role.seed)
            return fit(task, config.role.fit, key, stopper=stopper, on_step=on_step)


def _measure(role: RoleConfig, source: Source, params: Params) -> dict:
    """Quality of the model; of twins: of the reward model, with the held-out judge under ``judge``."""
    functions = role_functions(source, role)
    each = [twin(params, i) for i in range(role.twins)] or [params]
    reports = [measure_part(role.role, functions, source, one, role.objective) for one in each]
    return reports[0] | ({"judge": reports[1]} if role.twins else {})


def _stopper(config: SuperviseConfig, source: Source, task) -> Stopper | None:
    if not config.patience:
        return None
    held_out = dataclasses.replace(config.role, rows=4 * config.role.fit.batch_size)
    # other rows in the wording of training: held-out wording would stop a run for being less likely, not for overfit
    rows = ROLES[config.role.role].rows(source, held_out, config.role.seed + 500, "train")
    loss = held_out_loss(task, rows, config.role.fit.batch_size)
    return Stopper(held_out=loss, every=config.evaluate_every, patience=config.patience)


if __name__ == "__main__":
    sys.exit(run(["supervise", *sys.argv[1:]]))
