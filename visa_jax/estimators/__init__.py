"""From rewards to advantages: groups, GAE, KL estimates, normalisers. Pure functions of arrays."""

from visa_jax.estimators.gae import gae, whiten
from visa_jax.estimators.group import group_advantages, rloo_advantages
from visa_jax.estimators.kl import KL_KINDS, kl_estimate
from visa_jax.estimators.normalize import QuantileNormalizer, adapt_kl_coefficient, fit_quantiles, scale_rewards

__all__ = [
    "KL_KINDS",
    "QuantileNormalizer",
    "adapt_kl_coefficient",
    "fit_quantiles",
    "gae",
    "group_advantages",
    "kl_estimate",
    "rloo_advantages",
    "scale_rewards",
    "whiten",
]
