"""Judging what was trained: fronts, control, and the runs that measure them."""

from visa_jax.evaluation.control import (
    control_error,
    kendall_tau,
    monotone_share,
    reward_range,
    sample_control_error,
    seed_difference,
)
from visa_jax.evaluation.pareto import hypervolume, non_dominated, pareto_front, sparsity

__all__ = [
    "control_error",
    "hypervolume",
    "kendall_tau",
    "monotone_share",
    "non_dominated",
    "pareto_front",
    "reward_range",
    "sample_control_error",
    "seed_difference",
    "sparsity",
]
