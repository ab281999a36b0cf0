"""The front: mean rewards of each method over the evaluation preferences, with the enumerated front behind."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from visa_jax.plots.points import Cloud, gather, objective_names
from visa_jax.plots.style import MUTED, Look, add_legend, assign_looks, handle, label_panel, make_panels

FRONT = Look("#8a8a8a", "")


def draw_front(panel: Axes, front_FK: np.ndarray, pair: tuple[int, int]) -> None:
    """The known front: a line for two objectives, pale dots for a pair out of more."""
    x, y = front_FK[:, pair[0]], front_FK[:, pair[1]]
    if front_FK.shape[1] > 2:
        panel.plot(x, y, ".", color=FRONT.color, alpha=0.35, markersize=3)
        return
    order = np.lexsort((-y, x))
    panel.plot(x[order], y[order], color=FRONT.color, linewidth=5, alpha=0.35, solid_capstyle="round")


def draw_cloud(panel: Axes, cloud: Cloud, look: Look, pair: tuple[int, int], *, seen: bool) -> None:
    """One method: seen preferences filled and joined in order of the first preference, unseen hollow."""
    x, y = cloud.mean_SK[:, pair[0]], cloud.mean_SK[:, pair[1]]
    if len(cloud.all_PK) > len(x):
        panel.plot(cloud.all_PK[:, pair[0]], cloud.all_PK[:, pair[1]], ".", color=look.color, alpha=0.3, markersize=3)
        spread = {"xerr": cloud.sd_SK[:, pair[0]], "yerr": cloud.sd_SK[:, pair[1]]}
        panel.errorbar(x, y, **spread, fmt="none", ecolor=look.color, elinewidth=0.8, alpha=0.5)
    if seen and cloud.mean_SK.shape[1] == 2:
        panel.plot(x, y, color=look.color, linewidth=1.1, alpha=0.6)
    face = look.color if seen else "white"
    edge = "white" if seen else look.color
    panel.plot(x, y, look.marker, color=look.color, markersize=5.5, markerfacecolor=face, markeredgecolor=edge, mew=0.8)


def mark_reference(panel: Axes, reference: list | None, pair: tuple[int, int]) -> bool:
    """A cross at the hyper-volume's reference point."""
    if reference is None or len(reference) <= max(pair):
        return False
    panel.plot(reference[pair[0]], reference[pair[1]], "+", color=MUTED, markersize=8, mew=1.4)
    return True


def draw_pareto(section: Mapping, labels: Mapping[str, str], *, key: str = "oracle") -> Figure | None:
    """Reward against reward, one panel for each pair of objectives.

    Args:
        section: a table with "points" {method: [{"preference": [M], key: [K], "unseen": bool}]} and optionally
            "front" [F][K] and "reference_point" [K], both in the units of ``key``, and "objectives" [K].
        labels: what to call each method. key: which reward of a point.
    Returns: a figure, or None where no method has a point.
    """
    points = section.get("points") or {}
    clouds = {
        name: (gather(points[name], key, unseen=False), gather(points[name], key, unseen=True)) for name in points
    }
    clouds = {name: both for name, both in clouds.items() if any(both)}
    if not clouds:
        return None
    looks = assign_looks(points)
    count = next(cloud for both in clouds.values() for cloud in both if cloud).mean_SK.shape[1]
    names = objective_names(section, count)
    pairs = list(combinations(range(count), 2))
    figure, panels = make_panels(
        len(pairs), columns=1 if len(pairs) == 1 else 2, height=4.2 if len(pairs) == 1 else 2.8
    )
    front_FK = np.array(section.get("front") or [], dtype=float)
    marked = False
    for panel, pair in zip(panels, pairs, strict=True):
        if front_FK.ndim == 2 and front_FK.shape[1] == count:
            draw_front(panel, front_FK, pair)
        for name, (seen, unseen) in clouds.items():
            for cloud, is_seen in ((seen, True), (unseen, False)):
                if cloud is not None:
                    draw_cloud(panel, cloud, looks[name], pair, seen=is_seen)
        marked |= mark_reference(panel, section.get("reference_point"), pair)
        label_panel(panel, "", f"{names[pair[0]]} (mean reward)", f"{names[pair[1]]} (mean reward)")
    handles = [handle(labels.get(name, name), looks[name]) for name in clouds]
    add_legend(figure, handles + extra_handles(clouds, front_FK.size > 0, marked), columns=3)
    return figure


def extra_handles(clouds: Mapping, front: bool, reference: bool) -> list[Line2D]:
    """Legend entries for what is not a method."""
    handles = []
    if front:
        handles.append(handle("known front", FRONT, linewidth=5, alpha=0.35))
    if any(unseen is not None for _, unseen in clouds.values()):
        hollow = {"linestyle": "none", "markerfacecolor": "white"}
        handles.append(handle("unseen preference", Look(MUTED, "o"), **hollow))
    if reference:
        handles.append(handle("reference point", Look(MUTED, "+"), linestyle="none", markersize=7))
    return handles
