"""The main job: train VISA and MOC with their baselines on the embedded testbed, judge and compare them.

visa-jax quickstart --workdir=runs/quickstart [--fast | --full] [--seed=0]

Ends with the comparison table and the paths of report.html and summary.json. A stage whose run is finished in the
workdir is not done again: the same command goes on where it was interrupted. A report lies there all the same.
"""

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from visa_jax.cli.claims import check_claims
from visa_jax.cli.flags import LAST_SEED, define_workdir, load_config_file
from visa_jax.cli.main import run
from visa_jax.config import UserError, config_differences, load_config, require, save_config
from visa_jax.evaluation.records import write_json
from visa_jax.evaluation.report import comparison_table, write_report
from visa_jax.plots import draw_figures

BRANCHES = ("moc", "visa")
# One thread a branch: two programs on two cores waste less than one program on both.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def define_flags(values: flags.FlagValues) -> None:
    define_workdir(values, "directory of all runs and of the report", required=False)
    values["workdir"].value = "runs/quickstart"
    flags.DEFINE_integer("seed", 0, "seed of every stage", flag_values=values, lower_bound=0, upper_bound=LAST_SEED)
    flags.DEFINE_bool("fast", False, "every stage cut to a twelfth: shows that all works", flag_values=values)
    flags.DEFINE_bool("full", False, "more baselines", flag_values=values)
    flags.DEFINE_enum("branch", None, BRANCHES, "run one branch only, as the command itself does", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    require(not (values.fast and values.full), "--fast", "does not go with --full")
    mode = "fast" if values.fast else "full" if values.full else "standard"
    workdir = Path(values.workdir)
    config = load_config_file(f"configs/quickstart.py:{mode + ',' if mode != 'standard' else ''}seed={values.seed}")
    if values.branch:
        from visa_jax.cli.branches import run_branch  # imports JAX, which the parent does not need

        run_branch(values.branch, config, workdir)
        return 0
    claim(workdir, config)
    began = time.perf_counter()
    run_branches(workdir, values)
    summary = merge(workdir, config, time.perf_counter() - began)
    write_json(workdir / "summary.json", summary)
    report = write_report(workdir, draw_figures)
    print(comparison_table(summary))
    print(f"\nreport:  {report}\nsummary: {workdir / 'summary.json'}\nin {time.perf_counter() - began:.0f} s")
    return 0


def claim(workdir: Path, config) -> None:
    """Keep the config, or make sure that what lies there was made with the same one."""
    if (workdir / "config.json").is_file():
        differences = config_differences(load_config(workdir), config)
        if differences:
            raise UserError(f"{workdir}: made with another config ({differences[0]}); use a new --workdir")
    else:
        save_config(workdir, config)


def run_branches(workdir: Path, values: flags.FlagValues) -> None:
    """Both branches side by side; if one fails, the other is stopped and its message is the command's."""
    words = [f"--workdir={workdir}", f"--seed={values.seed}"]
    words += [flag for flag, on in (("--fast", values.fast), ("--full", values.full)) if on]
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip(),
        # what MOC and its baselines share is compiled once; made anew in every workdir, so it counts as part of the run
        "JAX_COMPILATION_CACHE_DIR": str((workdir / "compiled").resolve()),
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    command = [sys.executable, "-m", "visa_jax.cli.main", "quickstart", *words]
    children = {b: subprocess.Popen([*command, f"--branch={b}"], env=environment) for b in BRANCHES}
    share_cores([child.pid for child in children.values()])
    try:
        while any(child.poll() is None for child in children.values()):
            failed = [b for b, child in children.items() if child.poll() not in (None, 0)]
            if failed:
                raise UserError(f"the {failed[0]} branch failed (its message is above)")
            time.sleep(0.2)
        failed = [b for b, child in children.items() if child.returncode]
        if failed:
            raise UserError(f"the {failed[0]} branch failed (its message is above)")
    finally:
        for child in children.values():
            if child.poll() is None:
                child.terminate()
        for child in children.values():
            child.wait()


def share_cores(processes: list[int]) -> None:
    """Give each process cores of its own: 5 % faster than moving about (LOG.md). Only Linux can; one core is shared."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) >= len(processes):
        for i, process in enumerate(processes):
            with contextlib.suppress(ProcessLookupError):  # it has failed already, and its message says so
                os.sched_setaffinity(process, cores[i :: len(processes)])


def merge(workdir: Path, config, seconds: float) -> dict:
    """One summary from both branches."""
    parts = [json.loads((workdir / f"{branch}.json").read_text()) for branch in BRANCHES]
    summary = {
        "seed": config.seed,
        "mode": config.mode,
        "machine": {"cores": os.cpu_count(), **{p: importlib.metadata.version(p) for p in ("jax", "flax", "optax")}},
        "supervised": {},
        "compiles": {},
        "seconds": {},
    }
    for part in parts:
        for name, value in part.items():
            if name == "compiles":
                for function, count in value.items():
                    summary["compiles"][function] = summary["compiles"].get(function, 0) + count
            elif isinstance(value, dict) and name in summary:
                summary[name] |= value
            else:
                summary[name] = value
    summary["seconds"]["all"] = {"used": round(seconds, 1), "budget": 900}
    summary["claims"] = check_claims(summary)
    return summary


if __name__ == "__main__":
    sys.exit(run(["quickstart", *sys.argv[1:]]))
