"""Judge a finished VISA or MOC run on held-out rows: the table, the figures, the report.

visa-jax evaluate --workdir=runs/quickstart/visa [--rows=256]
visa-jax evaluate --workdir=runs/quickstart/moc [--grid=11] [--rows=32]

Writes evaluation.json, evaluation.csv, evaluation.md, plots/*.png, report.html and summary.json into the workdir;
`visa-jax compare` reads the last one. VISA stands beside the copied source, the prompted base and its own start (SFT);
MOC beside its start.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from visa_jax.cli.experiment import MocParts, VisaParts
from visa_jax.cli.flags import UsageError, define_workdir
from visa_jax.cli.judging import (
    Judged,
    judge_moc,
    judge_visa,
    load_normalizer,
    loop_texts,
    make_moc_set,
    make_visa_set,
    visa_bins,
)
from visa_jax.cli.main import run
from visa_jax.cli.runs import check_base, open_run
from visa_jax.cli.train import open_parts, read_config
from visa_jax.data.testbed.objectives import enumerate_front
from visa_jax.estimators import QuantileNormalizer
from visa_jax.evaluation.records import read_run, write_json
from visa_jax.evaluation.report import comparison_table, write_report
from visa_jax.evaluation.tables import method_label, write_csv, write_markdown
from visa_jax.methods.baselines import MOC_BASELINES
from visa_jax.plots import draw_figures
from visa_jax.plots.figures import make_figures, save_figures
from visa_jax.training.metrics import METRICS_FILE
from visa_jax.types import Params

ROWS = {"visa": 256, "moc": 32}
SEED = 4242  # of the judged rows, the quickstart's


def define_flags(values: flags.FlagValues) -> None:
    define_workdir(values, "a finished VISA or MOC run")
    flags.DEFINE_integer("grid", 11, "MOC: preferences on the seen grid", flag_values=values, lower_bound=2)
    flags.DEFINE_integer(
        "rows", None, "texts (VISA, default 256) or questions (MOC, default 32)", flag_values=values, lower_bound=2
    )


def main(values: flags.FlagValues, positional: list[str]) -> int:
    began = time.perf_counter()
    found = open_run(values.workdir, "--workdir", ("visa", "moc"), made_by="visa-jax train")
    check_base(found.workdir, found.config)
    config = read_config(found.config)
    if config.method == "visa" and values["grid"].present:
        raise UsageError("--grid: is of MOC runs, this is a VISA run")
    parts, rows = open_parts(config), values.rows or ROWS[config.method]
    if config.method == "visa":
        section, judged = evaluate_visa(parts, parts.policy.join(found.params), rows)
    else:
        policies = {"sft": parts.start, row_name(config.moc): parts.policy.join(found.params)}
        section, judged = evaluate_moc(parts, policies, load_normalizer(found.workdir), rows, values.grid)
    summary = {"seed": config.seed, "mode": "evaluate", "config": _without_seed(found.config)} | section
    summary["notes"] = list(parts.notes)
    summary["seconds"] = {"evaluate": {"used": round(time.perf_counter() - began, 1), "budget": None}}
    report = write_evaluation(found.workdir, summary, judged)
    print("\n".join([comparison_table(summary), *(f"note: {note}" for note in parts.notes)]))
    print(f"\nreport: {report}")
    return 0


def evaluate_visa(parts: VisaParts, params: Params, rows: int) -> tuple[dict[str, Any], dict[str, Judged]]:
    """The summary's sections of a VISA run, and what was judged by name."""
    fixed, key = make_visa_set(parts, rows, "test", 1.0, SEED), jax.random.key(0)
    texts = {"copy": list(fixed.pool.answers)}
    texts["prompted"] = parts.sample_base(parts.base, fixed.prompts, key).texts
    for name, policy in (("sft", parts.start), ("visa", params)):
        texts[name] = parts.sample(policy, fixed.prompts, key).texts
    texts["visa_loop"] = loop_texts(parts, fixed, params)
    judged = {name: judge_visa(parts, fixed, said) for name, said in texts.items()}
    summary = {"visa": _section(judged)}
    summary["visa_bins"] = {name: visa_bins(judged[name], fixed) for name in ("sft", "visa")}
    summary["leakage"] = {name: one.row["leakage"] for name, one in judged.items()}
    return summary, judged


def evaluate_moc(
    parts: MocParts, policies: dict[str, Params], normalizer: QuantileNormalizer, rows: int, grid: int
) -> tuple[dict[str, Any], dict[str, Judged]]:
    """The summary's section of policies by name, all on one scale and one set, and what was judged by name."""
    fixed = make_moc_set(parts, rows, unseen=True, grid=grid)
    judged = {name: judge_moc(parts, normalizer, fixed, policy) for name, policy in policies.items()}
    section = _section(judged) | {
        "reference_point": list(parts.config.reference_point),
        "objectives": list(parts.config.moc.reward_names),
        "normalizer": {"low": np.asarray(normalizer.low_K).tolist(), "high": np.asarray(normalizer.high_K).tolist()},
    }
    if parts.source.testbed is not None:
        section["front"] = enumerate_front()[1].tolist()
    return {"moc": section}, judged


def row_name(config: Any) -> str:
    """Row of the table that a MOC config belongs to: a baseline's, an ablation's, or moc."""
    for name, changes in MOC_BASELINES.items():
        if all(getattr(config, field) == value for field, value in changes.items()):
            return name
    return config.signals if config.signals in ("target", "n_plus_1") else "moc"


def write_evaluation(workdir: Path, summary: dict[str, Any], judged: dict[str, Judged]) -> Path:
    """Everything that an evaluation leaves in a workdir; returns the report's path."""
    for folder in ("curves", "samples", "plots"):
        (workdir / folder).mkdir(exist_ok=True)
    for name, one in judged.items():
        (workdir / "samples" / f"{name}.json").write_text(json.dumps(one.samples, indent=1) + "\n")
    if (workdir / METRICS_FILE).is_file():
        trained = next(name for name in reversed(judged) if name != "visa_loop")
        shutil.copyfile(workdir / METRICS_FILE, workdir / "curves" / f"{trained}.jsonl")
    write_json(workdir / "summary.json", summary)
    tables = {name: summary[name]["rows"] for name in ("visa", "moc") if name in summary}
    write_json(workdir / "evaluation.json", tables)
    write_csv(summary, workdir / "evaluation.csv")
    write_markdown(summary, workdir / "evaluation.md")
    record = read_run(workdir)
    labels = {name: method_label(name) for name in judged}
    save_figures(make_figures(record.summary, record.curves, record.samples, labels), workdir / "plots")
    return write_report(workdir, draw_figures)


def _section(judged: dict[str, Judged]) -> dict[str, Any]:
    return {
        "rows": {name: one.row for name, one in judged.items()},
        "points": {name: one.points for name, one in judged.items()},
    }


def _without_seed(config: Any) -> dict[str, Any]:
    """The config as `compare` tells repetitions by: runs that differ in the seed alone are averaged."""
    return {name: value for name, value in json.loads(config.to_json()).items() if name != "seed"}


if __name__ == "__main__":
    sys.exit(run(["evaluate", *sys.argv[1:]]))
