"""How far the values had to move, against what was reached and what was kept."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from visa_jax.plots.style import add_legend, assign_looks, handle, label_panel, make_panels

METRICS = (
    ("oracle_consistency", "facts kept (consistency)"),
    ("consistency", "facts kept (judge)"),
    ("oracle_value_l2", "distance to the target (oracle)"),
    ("value_l2", "distance to the target (judge)"),
    ("oracle_jsr", "joint success"),
)


def draw_bins(bins: Mapping[str, Sequence[Mapping]], labels: Mapping[str, str]) -> Figure | None:
    """Metrics against the size of the wished shift ‖Δv‖, in bins, one line for each method.

    Args:
        bins: {method: [{"shift": "0.5–1", "count": …, metric: …}]}, bins in order; a metric may be missing.
        labels: what to call each method.
    Returns: a figure, or None where no bin holds a metric.
    """
    bins = {name: rows for name, rows in bins.items() if rows}
    present = [
        (key, title)
        for key, title in METRICS
        if any(row.get(key) is not None for rows in bins.values() for row in rows)
    ]
    if not present:
        return None
    shifts = list(dict.fromkeys(str(row["shift"]) for rows in bins.values() for row in rows))
    looks = assign_looks(bins)
    figure, panels = make_panels(len(present), height=2.4)
    for panel, (key, title) in zip(panels, present, strict=True):
        for name, rows in bins.items():
            x = [shifts.index(str(row["shift"])) for row in rows]
            y = np.array([np.nan if row.get(key) is None else row[key] for row in rows], dtype=float)
            panel.plot(
                x, y, color=looks[name].color, marker=looks[name].marker, markersize=5, mec="white", linewidth=1.5
            )
        panel.set_xticks(range(len(shifts)), shifts)
        panel.set_xlim(-0.3, len(shifts) - 0.7)
        panel.set_ylim(bottom=0)
        label_panel(panel, title, "wished shift ‖Δv‖")
    add_legend(figure, [handle(labels.get(name, name), looks[name]) for name in bins])
    return figure
