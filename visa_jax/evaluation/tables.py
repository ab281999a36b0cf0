"""Comparison tables: which figures of the summary are shown, in which order, and how a number is written.

A cell of the summary is a number, a string, a list (one entry an objective), or ``{"values": [...]}``: one number a
run, written as mean ± standard deviation. NaN and what is missing are written "–". Nothing is computed here but means,
deviations and the intervals of differences.
"""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from visa_jax.evaluation.control import seed_difference

MISSING = "–"
ARROWS = {"up": "↑", "down": "↓", "": ""}


class Column(NamedTuple):
    """A figure of a table: key in the summary, title, which way is better ("up", "down", ""), digits.

    What is not ``headline`` stays out of the terminal, where room is short.
    """

    key: str
    title: str
    better: str
    digits: int = 3
    headline: bool = True


class Layout(NamedTuple):
    """One table: the section of the summary it reads, title, columns."""

    section: str
    title: str
    columns: tuple[Column, ...]


class Cell(NamedTuple):
    text: str
    best: bool


class Row(NamedTuple):
    name: str
    label: str
    kind: str  # "", "baseline", "ablation", "reference"
    cells: tuple[Cell, ...]


class Table(NamedTuple):
    section: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def _value_columns(prefix: str, *more: Column) -> tuple[Column, ...]:
    return (
        Column(prefix + "consistency", "consistency", "up"),
        Column(prefix + "value_l2", "value L2", "down"),
        Column(prefix + "value_cos", "value cos", "up"),
        Column(prefix + "jsr", "JSR", "up"),
        *more,
        Column(prefix + "consistency_forward", "forward", "up", headline=False),  # last: a narrow page cuts these off
        Column(prefix + "consistency_backward", "backward", "up", headline=False),
    )


def _front_columns(prefix: str) -> tuple[Column, ...]:
    return (
        Column(prefix + "hypervolume", "hyper-volume", "up"),
        Column(prefix + "tau", "tau", "up"),
        Column(prefix + "tau_unseen", "tau unseen", "up"),
        Column(prefix + "control_error", "control error", "down", 4),
        Column(prefix + "sparsity", "sparsity", "down", 4),
        Column(prefix + "range", "range", "up", 2, headline=False),
        Column(prefix + "monotone", "monotone", "up", 2, headline=False),
    )


_FISH = (
    Column("tau", "tau", "up"),
    Column("control_error", "control error", "down", 4),
    Column("seconds", "seconds", "", 1),
)

LAYOUTS = (
    Layout(
        "visa",
        "VISA, by the oracle (truth)",
        _value_columns("oracle_", Column("oracle_unreadable", "unreadable", "down")),
    ),
    Layout("visa", "VISA, by held-out judges", _value_columns("")),
    Layout("moc", "MOC, by the oracle (truth)", _front_columns("")),
    Layout("moc", "MOC, by the learned rewards", _front_columns("learned_")),
    Layout("fishwood", "FishWood", _FISH),
    Layout("fishwood_idle", "FishWood with an idle action", (Column("hypervolume", "hyper-volume", "up"), *_FISH)),
)

SECTION_TITLES = {"visa": "VISA", "moc": "MOC", "fishwood": "FishWood", "fishwood_idle": "FishWood, idle"}

# Name in the summary: what it is called, and what it is. "reference": never counted as best, for it does nothing.
METHODS = {
    "copy": ("copy of the source", "reference"),
    "prompted": ("prompted base", "baseline"),
    "sft": ("SFT", "baseline"),
    "dpo": ("DPO", "baseline"),
    "simpo": ("SimPO", "baseline"),
    "visa": ("VISA", ""),
    "visa_loop": ("VISA, closed loop", ""),
    "linear_ppo": ("linear PPO", "baseline"),
    "fixed_half": ("MOC, c = ½ fixed", "ablation"),
    "mse_only": ("MOC, −MSE alone", "ablation"),
    "target": ("MOC, target signals", "ablation"),
    "n_plus_1": ("MOC, n + 1 signals", "ablation"),
    "moc": ("MOC", ""),
    "moc_group": ("MOC, group advantages", "ablation"),
}

# (section, figure, method, other method): differences that the papers' claims are about.
CONTRASTS = (
    ("visa", "oracle_jsr", "visa", "sft"),
    ("visa", "oracle_consistency", "visa", "sft"),
    ("visa", "oracle_value_l2", "visa", "copy"),
    ("moc", "hypervolume", "moc", "linear_ppo"),
    ("moc", "hypervolume", "moc", "fixed_half"),
    ("moc", "tau", "moc", "linear_ppo"),
    ("moc", "control_error", "moc", "linear_ppo"),
    ("moc", "control_error", "moc", "fixed_half"),
    ("fishwood", "control_error", "moc", "linear_ppo"),
    ("fishwood", "control_error", "moc", "fixed_half"),
    ("fishwood_idle", "hypervolume", "moc", "linear_ppo"),
    ("fishwood_idle", "hypervolume", "moc", "fixed_half"),
)


def method_label(name: str) -> str:
    """What a row is called; "visa · run_b" keeps its suffix, unknown names are shown as they are."""
    base, dot, suffix = name.partition(" · ")
    return METHODS.get(base, (base.replace("_", " "), ""))[0] + dot + suffix


def method_kind(name: str) -> str:
    return METHODS.get(name.partition(" · ")[0], ("", ""))[1]


def format_number(value, digits: int = 3) -> str:
    """0.9137 -> "0.914"; large numbers lose decimals, tiny ones become powers, NaN and None become "–"."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool | str):
        return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    if isinstance(value, int):
        return f"{value:,}"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size < 1e-9:  # what is left of rounding errors, such as the deviation of equal numbers
        value = size = 0.0
    if 0 < size < 0.5 * 10**-digits:
        return f"{value:.1e}".replace("-", "−")
    return f"{value:,.{digits if size < 100 else 1}f}".replace("-", "−")


def run_numbers(value) -> list[float]:
    """The numbers of a cell, one a run; missing ones and NaN left out."""
    values = value["values"] if isinstance(value, Mapping) and "values" in value else [value]
    return [float(v) for v in values if isinstance(v, int | float) and not math.isnan(v)]


def format_cell(value, digits: int = 3) -> str:
    """A cell as text: a number, mean ± deviation over runs, or a / b for a list."""
    if isinstance(value, Mapping) and "values" in value:
        numbers = run_numbers(value)
        if len(numbers) < 2:
            return format_number(numbers[0] if numbers else None, digits)
        deviation = float(np.std(numbers, ddof=1))
        return f"{format_number(float(np.mean(numbers)), digits)} ± {format_number(deviation, digits)}"
    if isinstance(value, list | tuple):
        return " / ".join(format_cell(entry, digits) for entry in value) or MISSING
    return format_number(value, digits)


def _best_rows(rows: Mapping[str, Mapping], column: Column) -> set[str]:
    """Rows that share the best shown figure; the reference rows do not compete, one row alone is not "best"."""
    means = {n: run_numbers(row.get(column.key)) for n, row in rows.items() if method_kind(n) != "reference"}
    means = {name: float(np.mean(numbers)) for name, numbers in means.items() if numbers}
    if len(means) < 2 or not column.better:
        return set()
    best = (max if column.better == "up" else min)(means.values())
    return {n for n, mean in means.items() if format_number(mean, column.digits) == format_number(best, column.digits)}


def make_table(layout: Layout, rows: Mapping[str, Mapping]) -> Table | None:
    """The table of a layout; columns without any figure are left out. None where no column is left."""
    columns = tuple(c for c in layout.columns if any(format_cell(row.get(c.key)) != MISSING for row in rows.values()))
    if not columns:
        return None
    best = {column.key: _best_rows(rows, column) for column in columns}
    made = []
    for name, row in rows.items():
        cells = tuple(Cell(format_cell(row.get(c.key), c.digits), name in best[c.key]) for c in columns)
        made.append(Row(name, method_label(name), method_kind(name), cells))
    return Table(layout.section, layout.title, columns, tuple(made))


def make_tables(summary: Mapping) -> list[Table]:
    """All tables that the summary has figures for, in the order of `LAYOUTS`."""
    made = [make_table(layout, (summary.get(layout.section) or {}).get("rows") or {}) for layout in LAYOUTS]
    return [table for table in made if table is not None]


class Difference(NamedTuple):
    """Paired over runs: mean of method − other, with its 95 % interval (Student's t)."""

    section: str
    title: str
    contrast: str
    mean: float
    low: float
    high: float
    digits: int
    runs: int
    verdict: str


def make_differences(summary: Mapping) -> list[Difference]:
    """`CONTRASTS` over the runs of a merged summary; only those that at least two runs have both sides of."""
    columns = {(layout.section, c.key): c for layout in LAYOUTS for c in layout.columns}
    made = []
    for section, key, name, other in CONTRASTS:
        rows = (summary.get(section) or {}).get("rows") or {}
        cells = [rows.get(n, {}).get(key) for n in (name, other)]
        if not all(isinstance(cell, Mapping) and "values" in cell for cell in cells):
            continue
        pairs = zip(cells[0]["values"], cells[1]["values"], strict=True)
        pairs = [(a, b) for a, b in pairs if run_numbers(a) and run_numbers(b)]
        if len(pairs) < 2:
            continue
        column = columns[section, key]
        mean, low, high = seed_difference(*zip(*pairs, strict=True))
        better = (mean > 0) == (column.better == "up")
        verdict = "no clear difference" if low <= 0 <= high else ("better" if better else "worse")
        title, contrast = (
            f"{column.title} {ARROWS[column.better]}",
            f"{method_label(name)} against {method_label(other)}",
        )
        made.append(
            Difference(SECTION_TITLES[section], title, contrast, mean, low, high, column.digits, len(pairs), verdict)
        )
    return made


def markdown_table(table: Table, *, width: int | None = None) -> str:
    """The table as aligned markdown; with a ``width`` only the headline columns, and those that do not fit go below.

    The best figures are starred (*), baselines and ablations are marked in the first column.
    """
    marks = {"": "", "baseline": " (b)", "ablation": " (a)", "reference": " (r)"}
    first = ["method"] + [row.label + marks[row.kind] for row in table.rows]
    columns = [
        [f"{c.title} {ARROWS[c.better]}".strip() + " "]
        + [r.cells[i].text + ("*" if r.cells[i].best else " ") for r in table.rows]
        for i, c in enumerate(table.columns)
        if width is None or c.headline
    ]
    blocks: list[list[list[str]]] = [[first]]
    for column in columns:
        used = sum(max(map(len, cells)) + 3 for cells in [*blocks[-1], column]) + 1
        if width is not None and used > width and len(blocks[-1]) > 1:
            blocks.append([first])
        blocks[-1].append(column)
    return "\n\n".join(_aligned(block) for block in blocks)


def _aligned(columns: list[list[str]]) -> str:
    widths = [max(map(len, cells)) for cells in columns]
    lines = []
    for index in range(len(columns[0])):
        texts = [
            c[index].ljust(w) if i == 0 else c[index].rjust(w)
            for i, (c, w) in enumerate(zip(columns, widths, strict=True))
        ]
        lines.append("| " + " | ".join(texts) + " |")
        if index == 0:
            rules = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
            lines.append("| " + " | ".join(rules) + " |")
    return "\n".join(lines)


def comparison_table(summary: Mapping, *, width: int = 100) -> str:
    """All comparison tables and the verdicts on the claims as text for a terminal, at most ``width`` columns wide."""
    parts = [f"{table.title}\n{markdown_table(table, width=width)}" for table in make_tables(summary)]
    differences = [f"  {difference_line(difference)}" for difference in make_differences(summary)]
    if differences:
        parts.append("Differences over runs, with 95 % intervals\n" + "\n".join(differences))
    claims = [
        f"{verdict_text(claim.get('holds')):>14}  {claim.get('claim', '')}" for claim in summary.get("claims") or []
    ]
    if claims:
        parts.append("Claims\n" + "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in claims))
    if not parts:
        return "(no comparison figures in this summary)"
    return "\n\n".join([*parts, "* best   (b) baseline   (a) ablation   (r) reference, never counted as best"])


def difference_line(difference: Difference) -> str:
    """One difference in words."""
    mean, low, high = (format_number(x, difference.digits) for x in (difference.mean, difference.low, difference.high))
    where = f"{difference.section}, {difference.title}, {difference.contrast}"
    return f"{where}: {mean} ({low} to {high}), {difference.verdict}"


def verdict_text(holds) -> str:
    """True -> "holds", False -> "does not hold", None -> "not tested"; a text is kept."""
    if isinstance(holds, str):
        return holds
    return {True: "holds", False: "does not hold"}.get(holds, "not tested")


def write_markdown(summary: Mapping, path: str | Path) -> Path:
    """All tables as one markdown file."""
    path = Path(path)
    blocks = [f"## {table.title}\n\n{markdown_table(table)}" for table in make_tables(summary)]
    path.write_text(
        "\n\n".join([*blocks, "(b) baseline, (a) ablation, (r) reference; * best"]) + "\n", encoding="utf-8"
    )
    return path


def write_csv(summary: Mapping, path: str | Path) -> Path:
    """All figures in long form: section, method, metric, mean, sd, runs; numbers in full, missing ones empty."""
    path = Path(path)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["section", "method", "metric", "mean", "sd", "runs"])
        for section in dict.fromkeys(layout.section for layout in LAYOUTS):
            for name, row in ((summary.get(section) or {}).get("rows") or {}).items():
                for metric, value in row.items():
                    numbers = run_numbers(value)
                    mean = repr(float(np.mean(numbers))) if numbers else ""
                    deviation = repr(float(np.std(numbers, ddof=1))) if len(numbers) > 1 else ""
                    writer.writerow([section, name, metric, mean, deviation, len(numbers)])
    return path
