"""All figures of a run, from its tables: {name: SVG text}. What has no data is simply not there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from visa_jax.plots.control import draw_preference_control, draw_target_control
from visa_jax.plots.curves import draw_curves
from visa_jax.plots.pareto import draw_pareto
from visa_jax.plots.retention import draw_bins
from visa_jax.plots.style import assign_looks, figure_svg, save_png
from visa_jax.plots.truth import draw_calibration, draw_truth_methods, draw_truth_points

REWARD_KEY = {"moc": "oracle", "fishwood": "reward", "fishwood_idle": "reward"}
OBJECTIVES = {"moc": None, "fishwood": ["fish", "wood"], "fishwood_idle": ["fish", "wood"]}  # where a table has none


def value_points(summary: Mapping, samples: Mapping[str, Sequence[Mapping]]) -> dict[str, list]:
    """Points of VISA's control figure: the table's own, else the values named in the printed samples."""
    points = (summary.get("visa") or {}).get("points")
    if points:
        return points
    found = {}
    for name, rows in samples.items():
        if name in (summary.get("visa") or {}).get("rows", {}):
            found[name] = [
                {
                    "target": row.get("target") or {},
                    "detected": row.get("detected") or {},
                    "oracle": (row.get("oracle") or {}).get("values") or {},
                }
                for row in rows
            ]
    return found


def run_values(rows: Mapping[str, Mapping]) -> dict[str, dict]:
    """Every metric as a list with one number a run."""
    return {
        name: {key: v["values"] if isinstance(v, Mapping) and "values" in v else [v] for key, v in row.items()}
        for name, row in rows.items()
    }


def make_figures(summary: Mapping, curves: Mapping, samples: Mapping, labels: Mapping[str, str]) -> dict[str, Figure]:
    """Every figure that has data.

    Args:
        summary: the run's tables. curves: {run: [track, …]}, a track = one list of records (one a step) a seed.
        samples: {method: [sample, …]}. labels: {method: what to call it}.
    Returns: figures under "pareto/<section>", "control/<section>", "truth/points", "truth/methods", "calibration",
        "bins" and "curves/<run>".
    """
    figures: dict[str, Figure | None] = {}
    for section, key in REWARD_KEY.items():
        table = {"objectives": OBJECTIVES[section]} | (summary.get(section) or {})
        key = key if any(key in point for ps in (table.get("points") or {}).values() for point in ps) else "learned"
        figures[f"pareto/{section}"] = draw_pareto(table, labels, key=key)
        figures[f"control/{section}"] = draw_preference_control(table, labels, fallback=key)
    figures["control/visa"] = draw_target_control(value_points(summary, samples), labels)
    figures["bins"] = draw_bins(summary.get("visa_bins") or {}, labels)
    figures["truth/points"] = draw_truth_points(summary.get("moc") or {}, labels)
    figures["truth/methods"] = draw_truth_methods(run_values((summary.get("visa") or {}).get("rows") or {}), labels)
    parts = summary.get("supervised") or {}
    calibration = {name: part.get("calibration") for name, part in parts.items() if isinstance(part, Mapping)}
    figures["calibration"] = draw_calibration(calibration, labels)
    for run, tracks in curves.items():
        figures[f"curves/{run}"] = draw_curves(tracks, assign_looks([run])[run])
    return {name: figure for name, figure in figures.items() if figure is not None}


def draw_figures(summary: Mapping, curves: Mapping, samples: Mapping, labels: Mapping[str, str]) -> dict[str, str]:
    """`make_figures` as SVG texts: what the report is given as its ``draw_fn``."""
    return {name: figure_svg(figure) for name, figure in make_figures(summary, curves, samples, labels).items()}


def save_figures(figures: Mapping[str, Figure], directory: str | Path) -> list[Path]:
    """Each figure as ``<name with _ for />.png`` in a directory."""
    return [save_png(figure, Path(directory) / f"{name.replace('/', '_')}.png") for name, figure in figures.items()]
