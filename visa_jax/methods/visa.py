"""VISA: the rewriter's GRPO step (arXiv 2603.04822; docs/visa.md).

One step: draw a shift of the value vector -> target = clip(v_orig + shift) -> rewards (value match,
consistency, format, length) -> weighted sum -> advantage within the group -> clipped policy loss with k3 KL.
The twin of ``moc.py``: same names in the same order, so that their diff is the difference of the papers.
"""

import dataclasses

import jax.numpy as jnp

from visa_jax.config import require
from visa_jax.estimators import group_advantages
from visa_jax.estimators.group import AGGREGATIONS, SCALES
from visa_jax.losses import LOSS_TYPES, policy_loss_sums
from visa_jax.losses.policy import LEVELS
from visa_jax.methods.base import Advantages, Method, PolicyOutput, reward_metrics
from visa_jax.ops.conditions import draw_target
from visa_jax.types import Array, Batch, WeightedSum


@dataclasses.dataclass(frozen=True)
class VisaConfig:
    """Numbers of VISA; marks: [paper], [read] our reading of it, [ours]."""

    reward_names: tuple[str, ...] = ("value", "consistency", "format", "length")
    reward_weights: tuple[float, ...] = (0.5, 0.5, 1.0, 0.1)  # [paper: weighted sum; numbers ours]
    scale_rewards: str = "group"  # group | batch | none
    aggregation: str = "sum_then_normalize"  # or normalize_then_sum (GDPO)
    loss_type: str = "grpo"  # [paper: GRPO]
    importance_sampling_level: str = "token"
    epsilon: float = 0.2  # [ours]
    epsilon_high: float | None = None
    delta: float | None = None
    beta: float = 0.04  # [ours] weight of the KL to the initial rewriter
    num_generations: int = 8  # [ours] G
    max_completion_length: int = 32
    active_shift_min: int = 1  # [ours] how many values a training shift moves
    active_shift_max: int = 2
    overlap: float = 0.5  # [ours] share of shifts that move a value which the source already expresses
    most_nonzero: int = 3  # [ours] values off 0 in a target: what a short text can state
    lowest_target: float = -1.0  # 0 where the detector learned presence alone: it never reads a negative value

    def __post_init__(self):
        require(self.num_generations >= 2, "num_generations", "GRPO needs a group of at least 2 completions")
        require(
            len(self.reward_names) == len(self.reward_weights),
            "reward_weights",
            f"{len(self.reward_weights)} weights for {len(self.reward_names)} rewards",
        )
        require(self.beta >= 0, "beta", "must be >= 0")
        for field, names in (
            ("loss_type", LOSS_TYPES),
            ("scale_rewards", SCALES),
            ("aggregation", AGGREGATIONS),
            ("importance_sampling_level", LEVELS),
        ):
            value = getattr(self, field)
            require(value in names, field, f"{value!r} is not one of {', '.join(names)}")
        require(self.loss_type != "cispo" or self.epsilon_high is not None, "epsilon_high", "cispo needs it (about 5)")
        require(-1 <= self.lowest_target <= 0, "lowest_target", "must be in [-1, 0]")


def make_method(config: VisaConfig) -> Method:
    """VISA as four pure functions (see ``methods/base.py``)."""

    def init(sample_reward_SK: Array | None = None) -> dict:
        """VISA keeps no state between steps."""
        return {}

    def condition(key, anchor_NM: Array) -> Array:
        """Target [N, 10] = clip(v_orig + shift, -1, 1) with a random sparse shift (visa notes 2 and 7)."""
        return draw_target(
            key,
            jnp.asarray(anchor_NM),
            min_active=config.active_shift_min,
            max_active=config.active_shift_max,
            overlap=config.overlap,
            most_nonzero=config.most_nonzero,
            lowest=config.lowest_target,
        )

    def combine(state: dict, batch: Batch) -> tuple[dict, Advantages, dict]:
        """K rewards -> one advantage per row, normalised within the group of its prompt."""
        scored = batch.scored
        mask_BT = scored.rollout.mask_BT
        weight_K = jnp.asarray(config.reward_weights, scored.reward_BK.dtype)
        adv_B = group_advantages(
            scored.reward_BK,
            config.num_generations,
            reward_weights=weight_K,
            scale_rewards=config.scale_rewards,
            aggregation=config.aggregation,
        )
        adv_BT = jnp.where(mask_BT, adv_B[:, None], 0.0)
        total_B = jnp.nansum(scored.reward_BK * weight_K[None, :], axis=1)
        metrics = reward_metrics(scored.reward_BK, config.reward_names, config.num_generations)
        metrics |= {"reward": jnp.mean(total_B), "reward_std": jnp.std(total_B)}
        empty_BTK = jnp.zeros((*mask_BT.shape, 0), adv_BT.dtype)
        return state, Advantages(adv_BT=adv_BT, return_BTK=empty_BTK), metrics

    def loss(output: PolicyOutput, batch: Batch, advantages: Advantages) -> tuple[WeightedSum, dict]:
        """Clipped policy loss with k3 KL to the initial rewriter."""
        return policy_loss_sums(
            output.logp_BT,
            batch.logp_old_BT,
            advantages.adv_BT,
            batch.scored.rollout.mask_BT,
            loss_type=config.loss_type,
            importance_sampling_level=config.importance_sampling_level,
            epsilon=config.epsilon,
            epsilon_high=config.epsilon_high,
            delta=config.delta,
            beta=config.beta,
            logp_ref_BT=batch.logp_ref_BT,
            max_completion_length=config.max_completion_length,
        )

    return Method(name="visa", signals=0, init=init, condition=condition, combine=combine, loss=loss)
