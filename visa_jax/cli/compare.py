"""Several runs in one table, one Pareto figure and one report.html that needs nothing else.

visa-jax compare runs/quickstart runs/visa runs/moc --out=runs/report

Takes directories with a summary.json: those of `visa-jax quickstart`, and runs after `visa-jax evaluate`. Runs that
differ in the seed alone share their rows, as mean ± deviation.
"""

import sys
from pathlib import Path

from absl import flags

from visa_jax.cli.flags import UsageError
from visa_jax.cli.main import run
from visa_jax.config import UserError
from visa_jax.evaluation.records import merge_runs, read_run
from visa_jax.evaluation.report import comparison_table, write_comparison
from visa_jax.plots import draw_figures

POSITIONAL = "RUN..."


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", "runs/report", "directory of the report and the tables", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    if not positional:
        raise UsageError("name at least one run directory: visa-jax compare runs/a runs/b --out=runs/report")
    for directory in map(Path, positional):
        if not directory.is_dir():
            raise UserError(f"{directory}: no such directory")
        if not (directory / "summary.json").is_file():
            raise UserError(
                f"{directory}: has no summary.json; judge it first: visa-jax evaluate --workdir={directory}"
            )
    report = write_comparison(positional, values.out, draw_figures)
    print(comparison_table(merge_runs([read_run(directory) for directory in positional]).summary))
    print(f"\nreport: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(run(["compare", *sys.argv[1:]]))
