"""The report of a run, or of several: one HTML file that needs nothing else, and the tables as markdown and CSV.

The figures come from a function that is handed in (`visa_jax.plots.draw_figures`): this package and the drawing one do
not import each other. Journey: directory → `read_run` → tables, figures, sections → template → report.html.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from visa_jax.config import UserError
from visa_jax.evaluation.records import RunRecord, merge_runs, read_run
from visa_jax.evaluation.tables import (
    ARROWS,
    METHODS,
    SECTION_TITLES,
    comparison_table,
    format_cell,
    make_differences,
    make_tables,
    method_label,
    run_numbers,
    verdict_text,
    write_csv,
    write_markdown,
)
from visa_jax.types import VALUES

__all__ = ["comparison_table", "render_report", "write_comparison", "write_report"]

# (summary, curves, samples, labels) -> {figure's name: SVG text}
DrawFn = Callable[[Mapping, Mapping, Mapping, Mapping], Mapping[str, str]]

SAMPLES_SHOWN = 10

# Figures outside the learning curves: what the reader is told of each.
CAPTIONS = {
    "pareto/moc": "MOC: mean oracle rewards at each preference. Filled: preferences of the seen grid, joined in order "
    "of the first; hollow: preferences never trained on. The further up and right, the better.",
    "pareto/fishwood": "FishWood: mean rewards of an episode. Every policy lies on the front in expectation, so the "
    "distance to it is noise; how evenly a method spreads along it is what counts.",
    "pareto/fishwood_idle": "FishWood with an idle action: here a policy can miss the front.",
    "control/moc": "MOC: what was asked for (preference) against what was obtained (reward).",
    "control/fishwood": "FishWood: preference against the scaled mean reward.",
    "control/fishwood_idle": "FishWood with an idle action: preference against the scaled mean reward.",
    "control/visa": "VISA: each value's target against the value found in the rewritten text. Large dots: means over "
    "targets a quarter wide; bars: 10 % to 90 %.",
    "bins": "VISA by the size of the wished shift: what is kept of the facts, and how near the target the values come.",
    "truth/points": "MOC: the reward models that trained the policy against the oracle, a dot for each preference. "
    "Dots that rise without moving to the right would be reward without truth.",
    "truth/methods": "VISA: held-out judges against the oracle, a dot for each method.",
    "calibration": "Detectors: predicted value against the mean true value; a dot's area grows with its count.",
}

SUPERVISED_TITLES = {
    "cosine": "cosine ↑",
    "macro_f1": "sign macro-F1 ↑",
    "mae": "mean absolute error ↓",
    "pearson": "Pearson r ↑",
    "l2": "L2 ↓",
    "probe_negation": "negation probe ↑",
    "probe_neutral": "neutral probe ↑",
    "probe_irony": "irony probe ↑",
    "sign_accuracy": "sign accuracy ↑",
    "false_activation": "false activation ↓",
    "accuracy": "accuracy ↑",
    "sentence_accuracy": "sentence accuracy ↑",
    "r2": "R² ↑",
}

# What a complete report holds: key of the summary, and what the reader is told where it is missing.
EXPECTED = {
    "visa": "comparison of VISA with its baselines",
    "moc": "comparison of MOC with its baselines",
    "fishwood": "FishWood",
    "fishwood_idle": "FishWood with an idle action",
    "claims": "claims of the papers on this testbed",
    "supervised": "quality of the supervised parts",
    "visa_bins": "VISA by size of the shift",
    "leakage": "leakage to values that were not asked for",
    "alignment_tax": "alignment tax",
    "seconds": "seconds per stage",
    "compiles": "compilations per function",
    "machine": "machine and versions",
}


class Fact(NamedTuple):
    """A name and what stands beside it, in small tables."""

    name: str
    text: str


class Sample(NamedTuple):
    """One printed sample; everything is text and is escaped by the template."""

    prompt: str
    source: str
    condition: str
    completion: str
    figures: tuple[Fact, ...]


def flatten(value: Any, prefix: str = "") -> list[Fact]:
    """A nested dictionary as (dotted name, text) pairs; lists of numbers stay together."""
    if isinstance(value, Mapping) and "values" not in value:
        return [fact for key, entry in value.items() for fact in flatten(entry, f"{prefix}{key}.")]
    return [Fact(prefix.rstrip("."), format_cell(value))]


def sample_of(row: Mapping) -> Sample:
    """One entry of a samples file as it is printed."""
    target = row.get("target") or {}
    named = target.items() if isinstance(target, Mapping) else zip(VALUES, target, strict=False)
    asked = [f"{name} {format_signed(number)}" for name, number in named]
    if row.get("preference"):
        asked.append("preference " + " / ".join(f"{p:.2f}" for p in row["preference"]))
    facts = [Fact(f"reward {f.name}", f.text) for f in flatten(row.get("rewards") or {})]
    facts += [Fact(f"oracle {f.name}", f.text) for f in flatten(row.get("oracle") or {})]
    texts = [str(row.get(key) or "") for key in ("prompt", "source", "completion")]
    return Sample(texts[0], texts[1], ", ".join(asked), texts[2], tuple(facts))


def format_signed(number: float) -> str:
    return f"{number:+.2f}".replace("-", "−")


def part_title(key: str) -> str:
    """ "r2.helpful" -> "R² ↑, helpful"; unknown keys lose their underscores."""
    base, _, rest = key.partition(".")
    title = SUPERVISED_TITLES.get(base, base.replace("_", " "))
    return f"{title}, {rest.replace('_', ' ')}" if rest else title


def parts_table(parts: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(names of parts, rows (figure, one text a part)); lists such as the calibration are drawn, not tabled.

    Entries that are not dictionaries themselves come together under a part without a name.
    """
    plain = {key: value for key, value in parts.items() if not isinstance(value, Mapping)}
    parts = ({"": plain} if plain else {}) | {key: value for key, value in parts.items() if isinstance(value, Mapping)}
    flat = {
        name: {fact.name: fact.text for fact in flatten({k: v for k, v in part.items() if not isinstance(v, list)})}
        for name, part in parts.items()
    }
    found = list(dict.fromkeys(key for part in flat.values() for key in part))
    order = list(SUPERVISED_TITLES)
    found.sort(key=lambda key: order.index(base) if (base := key.partition(".")[0]) in order else len(order))
    rows = [(part_title(key), [part.get(key, "") for part in flat.values()]) for key in found]
    return [method_label(name) for name in flat], rows


def mean_of(value: Any) -> float | None:
    """Mean over runs of a cell, None where it holds no number."""
    numbers = run_numbers(value)
    return sum(numbers) / len(numbers) if numbers else None


def stage_rows(seconds: Mapping[str, Any]) -> list[dict]:
    """Seconds used and allowed per stage, with the length of the bar in percent of the longest."""
    rows = []
    for name, entry in seconds.items():
        entry = entry if isinstance(entry, Mapping) and "used" in entry else {"used": entry}
        used, budget = mean_of(entry["used"]), mean_of(entry.get("budget"))
        rows.append({"name": name.replace("_", " "), "used": used, "budget": budget})
    longest = max((row[key] or 0 for row in rows for key in ("used", "budget")), default=0) or 1
    for row in rows:
        row["share"] = 100 * (row["used"] or 0) / longest
        row["allowed"] = None if row["budget"] is None else 100 * row["budget"] / longest
        row["over"] = row["budget"] is not None and (row["used"] or 0) > row["budget"]
    return rows


def missing_parts(run: RunRecord, figures: Mapping[str, str]) -> list[str]:
    """What a complete report would show and this one does not."""
    absent = list(run.summary.get("notes") or ())
    absent += [f"{told} (summary.{key})" for key, told in EXPECTED.items() if not run.summary.get(key)]
    for section in ("visa", "moc", "fishwood", "fishwood_idle"):
        if run.summary.get(section) and f"control/{section}" not in figures:
            absent.append(f"control figure of {section} (summary.{section}.points)")
    if run.summary.get("moc") and not run.summary["moc"].get("front"):
        absent.append("enumerated front (summary.moc.front)")
    absent += [] if run.curves else ["learning curves (curves/*.jsonl)"]
    absent += [] if run.samples else ["samples (samples/*.json)"]
    short = [name for name, rows in run.samples.items() if len(rows) < SAMPLES_SHOWN]
    absent += [
        f"{SAMPLES_SHOWN} samples of {method_label(name)}: the file has {len(run.samples[name])}" for name in short
    ]
    return absent


def data_uri(svg: str) -> str:
    """An SVG as a data address: drawn apart from the page, so that no two figures share an id."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def sort_methods(names: Sequence[str]) -> list[str]:
    """Known methods in the order of the tables, then the others."""
    order = list(METHODS)
    return sorted(
        names, key=lambda name: order.index(base) if (base := name.split(" · ")[0]) in METHODS else len(order)
    )


def render_report(run: RunRecord, draw_fn: DrawFn) -> str:
    """The whole page as HTML text, with nothing fetched from elsewhere.

    Args:
        run: one run, or several merged. draw_fn: draws the figures; `visa_jax.plots.draw_figures`.
    """
    summary = run.summary
    labels = {name: method_label(name) for name in METHODS}
    for section in ("visa", "moc", "fishwood", "fishwood_idle", "visa_bins", "supervised"):
        table = summary.get(section) or {}
        labels |= {
            name: method_label(name) for name in [*table, *(table.get("rows") or {}), *(table.get("points") or {})]
        }
    figures = draw_fn(summary, run.curves, run.samples, labels)
    verdicts = [claim.get("holds") for claim in summary.get("claims") or []]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        name=run.name,
        summary=summary,
        tables=make_tables(summary),
        differences=make_differences(summary),
        claims=[(claim, verdict_text(claim.get("holds"))) for claim in summary.get("claims") or []],
        held=sum(verdict is True for verdict in verdicts),
        tested=sum(verdict is not None for verdict in verdicts),
        figures={key: data_uri(svg) for key, svg in figures.items()},
        captions=CAPTIONS,
        curves=[(key, method_label(key)) for key in sort_methods([*run.curves]) if f"curves/{key}" in figures],
        supervised=parts_table(summary.get("supervised") or {}),
        samples=[
            (method_label(m), m in ("visa", "moc"), [sample_of(row) for row in run.samples[m][:SAMPLES_SHOWN]])
            for m in sort_methods([*run.samples])
        ],
        stages=stage_rows(summary.get("seconds") or {}),
        compiles=sorted((summary.get("compiles") or {}).items()),
        machine=flatten(summary.get("machine") or {}),
        provenance={
            section: flatten(
                {k: (summary.get(section) or {}).get(k) for k in ("reference_point", "objectives", "normalizer")}
            )
            for section in ("moc", "fishwood", "fishwood_idle")
            if summary.get(section)
        },
        extras={key: parts_table(summary[key]) for key in ("leakage", "alignment_tax") if summary.get(key)},
        missing=missing_parts(run, figures),
        arrows=ARROWS,
        cell=format_cell,
        titles=SECTION_TITLES,
    )


def write_report(run_dir: str | Path, draw_fn: DrawFn) -> Path:
    """Write report.html, tables.md and tables.csv into a run's directory.

    Args:
        run_dir: holds summary.json and, if they were kept, curves/*.jsonl and samples/*.json.
        draw_fn: `visa_jax.plots.draw_figures`.
    Returns: the path of report.html. Raises: UserError naming the file that is missing or broken.
    """
    return _write(read_run(run_dir), Path(run_dir), draw_fn)


def write_comparison(run_dirs: Sequence[str | Path], out: str | Path, draw_fn: DrawFn) -> Path:
    """Compare several runs: one table (mean ± deviation over repetitions of a method), one Pareto figure, one report.

    Args:
        run_dirs: directories as for `write_report`, at least one. out: directory for the report and tables.
        draw_fn: `visa_jax.plots.draw_figures`.
    Returns: the path of report.html. Raises: UserError for no run, a broken file, or hyper-volumes from different
        reference points.
    """
    if not run_dirs:
        raise UserError("compare: name at least one run directory")
    return _write(merge_runs([read_run(run_dir) for run_dir in run_dirs]), Path(out), draw_fn)


def _write(run: RunRecord, directory: Path, draw_fn: DrawFn) -> Path:
    page = render_report(run, draw_fn)
    directory.mkdir(parents=True, exist_ok=True)
    write_markdown(run.summary, directory / "tables.md")
    write_csv(run.summary, directory / "tables.csv")
    path = directory / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
