"""Does the policy do what it is asked? Preference against reward (MOC), target against value found (VISA)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visa_jax.plots.points import gather, objective_names
from visa_jax.plots.style import MUTED, Look, add_legend, assign_looks, handle, label_panel, make_panels

MOST_DOTS = 300  # a figure is a text file: more dots make it heavy and say no more


def draw_preference_control(section: Mapping, labels: Mapping[str, str], *, fallback: str = "oracle") -> Figure | None:
    """Preference p_i against the mean reward i, one panel for each objective.

    Args:
        section: a table with "points" {method: [{"preference": [M], "scaled": [K], fallback: [K], "unseen": bool}]}.
            Where every point has "scaled" (rewards on the scale of p) these are drawn, with the diagonal on
            which obtained = asked (moc.md's constraint, eq. 1); else the raw rewards, without a diagonal.
        labels: what to call each method. fallback: the raw reward's key.
    Returns: a figure, or None where no method has a point.
    """
    points = {name: entries for name, entries in (section.get("points") or {}).items() if entries}
    scaled = all(point.get("scaled") is not None for entries in points.values() for point in entries)
    key = "scaled" if scaled else fallback
    clouds = {name: gather(entries, key) for name, entries in points.items()}
    clouds = {name: cloud for name, cloud in clouds.items() if cloud is not None}
    if not clouds:
        return None
    looks = assign_looks(section["points"])
    names = objective_names(section, next(iter(clouds.values())).mean_SK.shape[1])
    figure, panels = make_panels(len(names), height=2.9)
    for k, panel in enumerate(panels):
        for name, cloud in clouds.items():
            draw_response(panel, cloud, k, looks[name])
        if scaled:
            panel.axline((0, 0), slope=1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        label_panel(panel, names[k], f"preference for {names[k]}", "mean reward, scaled" if scaled else "mean reward")
    handles = [handle(labels.get(name, name), looks[name]) for name in clouds]
    if scaled:
        handles.append(handle("obtained = asked", Look(MUTED, ""), linestyle=(0, (4, 3)), linewidth=0.9))
    add_legend(figure, handles, columns=3)
    return figure


def draw_response(panel: Axes, cloud, k: int, look: Look) -> None:
    """One method in the panel of objective k, in order of p_k, with one deviation over runs where there are several."""
    order = np.argsort(cloud.preference_SM[:, k], kind="stable")
    x, y, sd = cloud.preference_SM[order, k], cloud.mean_SK[order, k], cloud.sd_SK[order, k]
    if sd.any():
        panel.fill_between(x, y - sd, y + sd, color=look.color, alpha=0.15, linewidth=0)
    panel.plot(x, y, color=look.color, marker=look.marker, markersize=4, linewidth=1.3, mec="white", mew=0.5)


def bin_means(target_P: np.ndarray, found_P: np.ndarray, *, width: float = 0.25) -> tuple[np.ndarray, ...]:
    """(target, mean, 10 % and 90 % quantile of what was found), each [S], over bins of the target of this width."""
    bins = np.round(target_P / width).astype(int)
    rows = []
    for index in np.unique(bins):
        inside = found_P[bins == index]
        rows.append((target_P[bins == index].mean(), inside.mean(), *np.quantile(inside, [0.1, 0.9])))
    return tuple(np.array(rows).T)


def target_pairs(points: Sequence[Mapping], key: str) -> np.ndarray:
    """[P, 2] pairs (target, found) over all points and values that have both; vectors or {name: number}."""
    pairs = []
    for point in points:
        target, found = point.get("target"), point.get(key)
        if isinstance(target, Mapping) and isinstance(found, Mapping):
            pairs += [(target[name], found[name]) for name in target if found.get(name) is not None]
        elif target is not None and found is not None and not isinstance(found, Mapping):
            pairs += list(zip(target, found, strict=True))
    table = np.array(pairs, dtype=float).reshape(-1, 2)
    return table[np.isfinite(table).all(axis=1)]


def draw_target_control(points: Mapping[str, Sequence[Mapping]], labels: Mapping[str, str]) -> Figure | None:
    """Target value against the value found in the text, one panel for each method: dots, bin means and 10–90 % bars.

    Args:
        points: {method: [{"target": [M], "detected": [M], "oracle": [M]}]}, entries in [-1, 1]; {name: number}
            instead of a vector is fine. "oracle" is drawn where it is there, else "detected".
        labels: what to call each method.
    Returns: a figure, or None where nothing can be paired.
    """
    drawn = {}
    for name, entries in points.items():
        for key in ("oracle", "detected"):
            pairs = target_pairs(entries, key)
            if len(pairs):
                drawn[name] = (key, pairs)
                break
    if not drawn:
        return None
    looks = assign_looks(points)
    figure, panels = make_panels(len(drawn), height=2.8)
    jitter = np.random.default_rng(0)
    for panel, (name, (key, pairs)) in zip(panels, drawn.items(), strict=True):
        few = pairs if len(pairs) <= MOST_DOTS else pairs[jitter.choice(len(pairs), MOST_DOTS, replace=False)]
        moved = few + jitter.uniform(-0.025, 0.025, few.shape)
        panel.plot(moved[:, 0], moved[:, 1], ".", color=looks[name].color, alpha=0.16, markersize=4, mew=0)
        panel.axline((0, 0), slope=1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        center, mean, low, high = bin_means(pairs[:, 0], pairs[:, 1])
        panel.vlines(center, low, high, color=looks[name].color, linewidth=1.2)
        panel.plot(center, mean, "o", color=looks[name].color, markersize=5, mec="white", mew=0.8)
        panel.set_xlim(-1.1, 1.1)
        panel.set_ylim(-1.15, 1.15)
        label_panel(panel, labels.get(name, name), "target", "by the oracle" if key == "oracle" else "by the detector")
    return figure
