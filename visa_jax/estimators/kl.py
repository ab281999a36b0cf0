"""Estimators of KL(policy || reference) from samples of the policy (Schulman, 2020)."""

import jax.numpy as jnp

from visa_jax.ops.numerics import as_float
from visa_jax.types import Array

# u = logp_ref - logp
KL_KINDS = {
    "k1": lambda u: -u,
    "k2": lambda u: jnp.square(u) / 2,
    "k3": lambda u: jnp.expm1(u) - u,
}


def kl_estimate(logp_BT: Array, logp_ref_BT: Array, kind: str = "k3") -> Array:
    """Per-token estimate of the divergence of the policy from the reference.

    With u = logp_ref - logp: k1 = -u (unbiased, can be negative), k2 = u² / 2 (biased, its
    gradient is not), k3 = exp(u) - u - 1 (unbiased, never negative).

    Args:
      logp_BT: log-probabilities of the sampled tokens under the policy; any shape.
      logp_ref_BT: the same under the reference.
      kind: ``"k1"``, ``"k2"`` or ``"k3"``.

    Returns:
      Estimates of the shape of ``logp_BT``. k1 as a *loss* has a gradient of mean zero: it
      belongs in a reward; ``policy_loss`` refuses it.

    Raises:
      ValueError: unknown ``kind``.
    """
    if kind not in KL_KINDS:
        raise ValueError(f"kind must be one of {', '.join(KL_KINDS)}, got {kind!r}")
    return KL_KINDS[kind](as_float(logp_ref_BT) - as_float(logp_BT))
