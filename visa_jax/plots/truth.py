"""Learned rewards against the oracle's truth: a policy that gains reward without gaining truth games the reward."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visa_jax.plots.points import gather, objective_names
from visa_jax.plots.style import MUTED, Look, add_legend, assign_looks, handle, label_panel, make_panels

JUDGED = (
    ("consistency", "oracle_consistency", "consistency"),
    ("value_l2", "oracle_value_l2", "distance to the target (L2)"),
)


def frame(panel: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Limits from the data with a margin, and the line y = x where it passes through them."""
    for values, set_limits in ((x, panel.set_xlim), (y, panel.set_ylim)):
        low, high = float(np.min(values)), float(np.max(values))
        margin = 0.08 * (high - low) or 0.1
        set_limits(low - margin, high + margin)
    panel.axline((0, 0), slope=1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)


def draw_truth_points(section: Mapping, labels: Mapping[str, str]) -> Figure | None:
    """The reward model's mean reward against the oracle's, a dot for each preference, a panel for each objective.

    Args:
        section: a table with "points" {method: [{"preference": [M], "oracle": [K], "learned": [K]}]}.
        labels: what to call each method.
    Returns: a figure, or None where no point has both.
    """
    points = section.get("points") or {}
    both = {
        name: [p for p in entries if p.get("oracle") is not None and p.get("learned") is not None]
        for name, entries in points.items()
    }
    clouds = {n: (gather(e, "oracle").mean_SK, gather(e, "learned").mean_SK) for n, e in both.items() if e}
    if not clouds:
        return None
    looks = assign_looks(points)
    names = objective_names(section, next(iter(clouds.values()))[0].shape[1])
    figure, panels = make_panels(len(names), height=2.8)
    for k, panel in enumerate(panels):
        for name, (oracle_SK, learned_SK) in clouds.items():
            panel.plot(oracle_SK[:, k], learned_SK[:, k], **dot(looks[name]))
        frame(panel, *(np.concatenate([pair[side][:, k] for pair in clouds.values()]) for side in (0, 1)))
        label_panel(panel, names[k], "oracle", "learned reward")
    add_legend(figure, legend_entries(clouds, looks, labels), columns=3)
    return figure


def draw_truth_methods(rows: Mapping[str, Mapping], labels: Mapping[str, str]) -> Figure | None:
    """The held-out judge's figure against the oracle's, a dot for each method and run.

    Args:
        rows: {method: {metric: [R] numbers, one a run}} with the metrics of `JUDGED`.
        labels: what to call each method.
    Returns: a figure, or None where no metric has both sides.
    """
    panels_data = []
    for judged, truth, title in JUDGED:
        pairs = {name: paired(row.get(truth), row.get(judged)) for name, row in rows.items()}
        pairs = {name: pair for name, pair in pairs.items() if len(pair)}
        if pairs:
            panels_data.append((title, pairs))
    if not panels_data:
        return None
    looks = assign_looks(rows)
    figure, panels = make_panels(len(panels_data), height=2.8)
    for panel, (title, pairs) in zip(panels, panels_data, strict=True):
        for name, pair in pairs.items():
            panel.plot(pair[:, 0], pair[:, 1], **dot(looks[name]))
        everything = np.concatenate(list(pairs.values()))
        frame(panel, everything[:, 0], everything[:, 1])
        label_panel(panel, title, "oracle", "held-out judge")
    add_legend(figure, legend_entries(rows, looks, labels), columns=3)
    return figure


def draw_calibration(parts: Mapping[str, Sequence], labels: Mapping[str, str]) -> Figure | None:
    """What a detector says against what is true, a panel for each detector; a dot's area grows with its count.

    Args:
        parts: {name: [[predicted, true, count]]}, values in [-1, 1].
        labels: what to call each part.
    Returns: a figure, or None where every list is empty.
    """
    parts = {name: np.array(rows, dtype=float).reshape(-1, 3) for name, rows in parts.items() if rows}
    if not parts:
        return None
    figure, panels = make_panels(len(parts), height=2.8)
    looks = assign_looks(parts)
    for panel, (name, table) in zip(panels, parts.items(), strict=True):
        area = 10 + 110 * table[:, 2] / table[:, 2].max()
        panel.axline((0, 0), slope=1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        panel.plot(table[:, 0], table[:, 1], color=looks[name].color, linewidth=1, alpha=0.5)
        panel.scatter(table[:, 0], table[:, 1], s=area, color=looks[name].color, edgecolor="white", linewidth=0.6)
        panel.set_xlim(-1.15, 1.15)
        panel.set_ylim(-1.15, 1.15)
        label_panel(panel, labels.get(name, name), "value predicted", "mean true value")
    return figure


def paired(truth: Sequence | None, judged: Sequence | None) -> np.ndarray:
    """[R, 2] (oracle, judge) of the runs that have both."""
    pairs = [(t, j) for t, j in zip(truth or [], judged or [], strict=False) if t is not None and j is not None]
    table = np.array(pairs, dtype=float).reshape(-1, 2)
    return table[np.isfinite(table).all(axis=1)]


def dot(look: Look) -> dict:
    """How a point of a method looks in these figures."""
    return {
        "color": look.color,
        "marker": look.marker,
        "linestyle": "none",
        "markersize": 6,
        "markeredgecolor": "white",
        "markeredgewidth": 0.7,
    }


def legend_entries(names: Mapping, looks: Mapping[str, Look], labels: Mapping[str, str]) -> list:
    """One entry a method, and the dashed line."""
    entries = [handle(labels.get(name, name), looks[name], linestyle="none") for name in names]
    return [*entries, handle("equal", Look(MUTED, ""), linestyle=(0, (4, 3)), linewidth=0.9)]
