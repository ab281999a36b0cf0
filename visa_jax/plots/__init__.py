"""Figures drawn from saved tables with matplotlib's object interface; nothing here imports JAX."""

from visa_jax.plots.figures import draw_figures
from visa_jax.plots.style import figure_svg, save_png

__all__ = ["draw_figures", "figure_svg", "save_png"]
