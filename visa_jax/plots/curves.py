"""Learning curves: one figure for each run, one panel for each quantity that the run logged."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visa_jax.plots.style import MUTED, PALETTE, Look, add_legend, handle, label_panel, make_panels

# Panels in reading order: title, what a key starts and ends with. The oracle's dots lie on the rewards' panel.
PANELS = (
    ("loss", ("loss",), ""),
    ("reward", ("reward",), ""),
    ("rewards by objective", ("rewards/",), "/mean"),
    ("control error", ("control/error",), ""),
    ("weights of the signals", ("moo/weights/",), ""),
    ("KL to the reference", ("kl",), ""),
    ("entropy", ("entropy",), ""),
    ("completion length", ("completions/mean_length",), ""),
    ("gradient norm", ("grad_norm",), ""),
)
SMOOTH_FROM = 40  # points; shorter curves are drawn as they are

Track = Sequence[Mapping]  # one run's steps


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over a tenth of the curve, NaN left out; the ends use the part of the window that exists.

    Args: values [S]. Returns [S]; NaN only where the whole window is NaN.
    """
    window = max(3, len(values) // 10)
    ones = np.ones(window)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), ones, mode="same")
    count = np.convolve(known.astype(float), ones, mode="same")
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def column(track: Track, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps [S], values [S]) of the records that have a number under ``key``."""
    rows = [(row["step"], row[key]) for row in track if isinstance(row.get(key), int | float) and "step" in row]
    table = np.array(rows, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def matching_keys(track: Track, prefixes: tuple[str, ...], suffix: str) -> list[str]:
    """Keys of a panel in order of first appearance; a prefix that ends with "/" stands for a family."""
    keys = dict.fromkeys(key for row in track for key in row)
    families = tuple(prefix for prefix in prefixes if prefix.endswith("/"))
    return [key for key in keys if key in prefixes or (families and key.startswith(families) and key.endswith(suffix))]


def objective_of(key: str) -> str:
    """ "rewards/helpful/mean" -> "helpful"; "moo/weights/control" -> "control"."""
    parts = [part for part in key.split("/") if part != "mean"]
    return parts[-1]


def draw_line(panel: Axes, steps: np.ndarray, values: np.ndarray, color: str, *, faint: bool = False) -> None:
    """A curve; long ones as a pale raw line below their running mean."""
    if len(steps) < SMOOTH_FROM:
        panel.plot(steps, values, color=color, linewidth=1.5, alpha=0.55 if faint else 1.0)
        return
    panel.plot(steps, values, color=color, linewidth=0.7, alpha=0.15 if faint else 0.28)
    panel.plot(steps, smooth(values), color=color, linewidth=1.6, alpha=0.6 if faint else 1.0)


def name_lines(panel: Axes, names: Mapping[str, str], dots: bool) -> None:
    """A small legend inside a panel that holds several lines."""
    handles = [handle(name, Look(color, ""), marker="") for name, color in names.items()]
    if dots:
        handles.append(handle("oracle", Look(MUTED, "o"), linestyle="none", markersize=3.5))
    legend = panel.legend(
        handles=handles, fontsize=7.8, frameon=True, framealpha=0.8, edgecolor="none", handlelength=1.2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def draw_panel(panel: Axes, title: str, keys: Sequence[str], tracks: Sequence[Track], color: str) -> None:
    """One quantity of all tracks (seeds); families get one colour a member and the oracle's dots."""
    family = len(keys) > 1
    colors = {objective_of(key): PALETTE[i % len(PALETTE)] if family else color for i, key in enumerate(keys)}
    dots = False
    for track in tracks:
        for key in keys:
            name = objective_of(key)
            draw_line(panel, *column(track, key), colors[name], faint=len(tracks) > 1)
            steps, truth = column(track, f"oracle/{name}")
            if key.startswith("rewards/") and len(steps):
                panel.plot(steps, truth, "o", color=colors[name], markersize=3.5, markeredgecolor="white", mew=0.6)
                dots = True
    label_panel(
        panel, title if family or title != "rewards by objective" else f"reward: {objective_of(keys[0])}", "step"
    )
    if family or dots:
        name_lines(panel, colors if family else {f"learned {objective_of(keys[0])}": color}, dots)


def draw_curves(tracks: Sequence[Track], look: Look) -> Figure | None:
    """All logged quantities of one run against the step.

    Args:
        tracks: one list of records (one record a step) for each seed; keys as in the metrics files.
        look: of the method.
    Returns: a figure, or None where no panel has at least two points.
    """
    filled = []
    for title, prefixes, suffix in PANELS:
        keys = list(dict.fromkeys(key for track in tracks for key in matching_keys(track, prefixes, suffix)))
        keys = [key for key in keys if any(np.isfinite(column(track, key)[1]).sum() > 1 for track in tracks)]
        if keys:
            filled.append((title, keys))
    if not filled:
        return None
    figure, panels = make_panels(len(filled), height=1.95)
    for panel, (title, keys) in zip(panels, filled, strict=True):
        draw_panel(panel, title, keys, tracks, look.color)
    if len(tracks) > 1:
        add_legend(figure, [handle(f"{len(tracks)} runs, one line each", look, marker="")])
    return figure
