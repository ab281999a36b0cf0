"""Several objectives into one: min-norm weights, aggregation of gradients, scalarisation of losses. Pure functions."""

from visa_jax.solvers.aggregate import AGGREGATORS, combine_direction, combine_weights
from visa_jax.solvers.min_norm import min_norm
from visa_jax.solvers.scalarize import linear, pbi, smooth_tchebycheff, tchebycheff
from visa_jax.solvers.simplex import active_signals, project_simplex, uniform

__all__ = [
    "AGGREGATORS",
    "active_signals",
    "combine_direction",
    "combine_weights",
    "linear",
    "min_norm",
    "pbi",
    "project_simplex",
    "smooth_tchebycheff",
    "tchebycheff",
    "uniform",
]
