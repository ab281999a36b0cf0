"""Baselines of both methods, each a change of a few config fields of VISA or MOC.

A table of changes rather than code: what a row differs in is all there is to read.
"""

# VISA's config with one reward at weight 1 is single-objective GRPO, and must equal VISA with that weight at 1.
VISA_BASELINES = {
    "grpo_value": {"reward_names": ("value",), "reward_weights": (1.0,)},
    "grpo_consistency": {"reward_names": ("consistency",), "reward_weights": (1.0,)},
}

MOC_BASELINES = {
    # Linear scalarisation, conditioned on p: one signal sum_k p_k rn_k.
    "linear_ppo": {"signals": "linear", "weights": "uniform"},
    # MOC's signals with c fixed at 1/2: what min-norm adds is the difference to this row.
    "fixed_half": {"signals": "bi", "weights": "uniform"},
    # The control signal alone.
    "mse_only": {"signals": "mse", "weights": "uniform"},
}
