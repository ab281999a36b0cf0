"""One look for every figure: colours that survive colour blindness, thin axes, legends outside the panels.

Figures are `matplotlib.figure.Figure` objects; pyplot and its global state are never touched, so figures can be
drawn from any thread and a notebook's settings neither change them nor are changed.
"""

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

INK = "#222222"
MUTED = "#6b6b6b"
GRID = "#e6e6e6"

# Okabe and Ito's palette, darkest first; its yellow is left out: it cannot be read on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")

# A method keeps its colour in every figure. Names that are not here take what is left of the palette.
METHOD_COLORS = {
    "visa": 0,
    "moc": 0,
    "linear_ppo": 1,
    "sft": 1,
    "fixed_half": 2,
    "prompted": 2,
    "copy": 7,
    "visa_loop": 5,
    "minus_mse": 3,
}

# What a reader's machine has; DejaVu (which measured the layout) is the widest, so nothing grows into its neighbour.
FONT_STACK = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"

# Two decimals of a point are a thousandth of a millimetre; the rest would be half of the file.
COORDINATES = re.compile(r' (?:d|x|y)="[^"]*"')
LONG_NUMBER = re.compile(r"(\.\d\d)\d+")


class Look(NamedTuple):
    """How one method is drawn."""

    color: str
    marker: str


def assign_looks(names: Iterable[str]) -> dict[str, Look]:
    """A colour and a marker for each name, the same in every figure.

    "moc · b" (a variant of "moc") takes moc's colour if nobody else in ``names`` has it, else a free one;
    colours repeat only when there are more names than colours.
    """
    names = list(dict.fromkeys(names))
    taken: dict[int, str] = {}
    for wish_of in (lambda name: METHOD_COLORS.get(name), lambda name: METHOD_COLORS.get(name.split(" · ")[0])):
        for name in names:
            wish = wish_of(name)
            if wish is not None and wish not in taken and name not in taken.values():
                taken[wish] = name
    chosen = {name: index for index, name in taken.items()}
    free = [index for index in range(len(PALETTE)) if index not in taken]
    for position, name in enumerate(name for name in names if name not in chosen):
        chosen[name] = free[position] if position < len(free) else position % len(PALETTE)
    return {name: Look(PALETTE[chosen[name]], MARKERS[chosen[name]]) for name in names}


def make_panels(count: int, *, columns: int = 2, width: float = 5.4, height: float = 2.3) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` ≥ 1 equal panels, ``columns`` beside each other.

    Args:
        count: number of panels. columns: at most this many in a row.
        width: of the whole figure, inches; kept near 5 so that labels stay readable on a phone.
        height: of one row of panels, inches.
    """
    if count < 1:
        raise ValueError(f"count: a figure needs at least one panel, got {count}")
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.04, hspace=0.06)
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    for panel in panels:
        dress(panel)
    return figure, panels


def dress(panel: Axes) -> None:
    """Thin grey axes on two sides, a light grid below the data."""
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        panel.spines[side].set_color("#9a9a9a")
        panel.spines[side].set_linewidth(0.8)
    panel.tick_params(labelsize=8.5, color="#9a9a9a", labelcolor=INK, width=0.8, length=3)
    panel.grid(True, color=GRID, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.yaxis.set_major_locator(MaxNLocator(5))


def label_panel(panel: Axes, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """Title at the left in ink, axis labels in grey. A "$" is printed as it is."""
    panel.set_title(title, loc="left", fontsize=9.5, color=INK, fontweight="bold", parse_math=False)
    panel.set_xlabel(xlabel, fontsize=8.8, color=MUTED, parse_math=False)
    panel.set_ylabel(ylabel, fontsize=8.8, color=MUTED, parse_math=False)


def handle(label: str, look: Look, **kwargs) -> Line2D:
    """A legend entry that does not depend on what was drawn."""
    style = {"linewidth": 1.6, "markersize": 5} | kwargs
    marker = style.pop("marker", look.marker)
    return Line2D([], [], color=look.color, marker=marker, label=label, **style)


def add_legend(figure: Figure, handles: list[Line2D], *, columns: int = 4) -> None:
    """One legend above all panels; nothing for an empty list."""
    if not handles:
        return
    columns = max(1, min(columns, len(handles)))
    legend = figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=8.8,
        labelcolor=INK,
        handlelength=1.8,
        columnspacing=1.4,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def figure_svg(figure: Figure) -> str:
    """The figure as an SVG text, the same bytes for the same data; text stays text, so it is small and sharp."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "visa_jax"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = text.replace("</style>", f" text {{font-family: {FONT_STACK}}}</style>", 1)
    text = COORDINATES.sub(lambda found: LONG_NUMBER.sub(r"\1", found.group()).replace("\n", ""), text)
    return re.sub(r">\s+<", "><", text)


def save_png(figure: Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Write the figure as PNG (for papers and for eyes without a browser)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=dpi)
    return path
