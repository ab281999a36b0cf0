"""Losses as pure functions of arrays; each keeps its sum and its weight apart until the last division."""

from visa_jax.losses.critic import critic_loss, critic_loss_sum
from visa_jax.losses.policy import LOSS_TYPES, policy_loss, policy_loss_sums
from visa_jax.losses.preference import dpo, simpo
from visa_jax.losses.reduce import reduce_tokens, token_weights
from visa_jax.losses.supervised import entailment, next_token, shift_regression, value_regression

__all__ = [
    "LOSS_TYPES",
    "critic_loss",
    "critic_loss_sum",
    "dpo",
    "entailment",
    "next_token",
    "policy_loss",
    "policy_loss_sums",
    "reduce_tokens",
    "shift_regression",
    "simpo",
    "token_weights",
    "value_regression",
]
