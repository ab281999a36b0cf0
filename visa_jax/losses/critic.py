"""The clipped critic loss of PPO."""

import jax.numpy as jnp

from visa_jax.losses.reduce import reduce_tokens
from visa_jax.ops.numerics import as_float
from visa_jax.types import Array, WeightedSum


def critic_loss(critic_BT: Array, critic_old_BT: Array, return_BT: Array, mask_BT: Array, *, clip: float) -> Array:
    """½ · Σ m max((V - R)², (clip(V, V_old ± c) - R)²) / Σ m (PPO2, Schulman et al. 2017, as implemented).

    Args:
      critic_BT: critic values V that are trained.
      critic_old_BT: critic values when the rollout was scored.
      return_BT: returns R from ``gae``; data.
      mask_BT: True where a token counts.
      clip: c > 0; the loss gives no credit for moving V further than c from V_old.

    Returns:
      Scalar; 0 where nothing counts.
    """
    return critic_loss_sum(critic_BT, critic_old_BT, return_BT, mask_BT, clip=clip).mean()


def critic_loss_sum(
    critic_BT: Array, critic_old_BT: Array, return_BT: Array, mask_BT: Array, *, clip: float
) -> WeightedSum:
    """``critic_loss`` before its last division. Arguments as there."""
    mask_BT = mask_BT.astype(bool)
    critic_BT, old_BT, return_BT = (jnp.where(mask_BT, as_float(x), 0) for x in (critic_BT, critic_old_BT, return_BT))
    near_BT = jnp.clip(critic_BT, old_BT - clip, old_BT + clip)
    worse_BT = jnp.maximum(jnp.square(critic_BT - return_BT), jnp.square(near_BT - return_BT))
    return reduce_tokens("dapo", worse_BT / 2, mask_BT)
