"""Signals of preference-conditioned RL: from K scaled rewards and a preference to S things to improve.

Shared by MOC and the PPO baselines; pure arithmetic (arXiv 2604.04497, our reading: the switch ``signals``).
"""

import jax.numpy as jnp

from visa_jax.types import Array


def control_mse(scaled_BK: Array, preference_BK: Array) -> Array:
    """(1/K) sum_k (rn_k - p_k)^2 per row, [B]: MOC's constraint (equation 1)."""
    return jnp.mean((scaled_BK - preference_BK) ** 2, axis=-1)


def _bi(scaled_BK: Array, preference_BK: Array) -> Array:
    return jnp.stack([jnp.mean(scaled_BK, axis=-1), -control_mse(scaled_BK, preference_BK)], axis=-1)


def _target(scaled_BK: Array, preference_BK: Array) -> Array:
    return -((scaled_BK - preference_BK) ** 2)


def _n_plus_1(scaled_BK: Array, preference_BK: Array) -> Array:
    return jnp.concatenate([scaled_BK, -control_mse(scaled_BK, preference_BK)[:, None]], axis=-1)


def _linear(scaled_BK: Array, preference_BK: Array) -> Array:
    return jnp.sum(scaled_BK * preference_BK, axis=-1, keepdims=True)


def _mse(scaled_BK: Array, preference_BK: Array) -> Array:
    return -control_mse(scaled_BK, preference_BK)[:, None]


# name -> (function of [B, K] rewards and preferences to [B, S], names of the S signals for K objectives)
SIGNALS = {
    "bi": (_bi, lambda k: ("reward", "control")),
    "target": (_target, lambda k: tuple(f"target_{i + 1}" for i in range(k))),
    "n_plus_1": (_n_plus_1, lambda k: (*(f"reward_{i + 1}" for i in range(k)), "control")),
    "linear": (_linear, lambda k: ("linear",)),
    "mse": (_mse, lambda k: ("control",)),
}


def make_signals(kind: str, scaled_BK: Array, preference_BK: Array) -> Array:
    """S signals per row, [B, S], higher is better.

    ``bi``: mean reward and minus the control error; ``target``: minus each squared distance; ``n_plus_1``: the
    K rewards and minus the control error; ``linear``: sum_k p_k rn_k; ``mse``: minus the control error alone.
    """
    return SIGNALS[kind][0](scaled_BK, preference_BK)


def signal_names(kind: str, objectives: int) -> tuple[str, ...]:
    """Names of the signals of ``kind`` for K objectives, in the order of ``make_signals``."""
    return SIGNALS[kind][1](objectives)
