"""Generalised advantage estimation over masked tokens, and the whitening that follows it."""

import jax
import jax.numpy as jnp

from visa_jax.ops.masked import masked_mean, masked_var
from visa_jax.ops.numerics import as_float
from visa_jax.types import Array


def gae(reward_BT: Array, critic_BT: Array, mask_BT: Array, *, gamma: float, lam: float) -> tuple[Array, Array]:
    """GAE (Schulman et al. 2016, eq. 16) on the sequence of valid tokens.

    δ_t = r_t + γ V_{t+1} - V_t and A_t = δ_t + γλ A_{t+1}, where t + 1 is the next *valid*
    token: a masked token hands V and A of its successor on unchanged. V after the last
    valid token is 0. With K critic heads use ``jax.vmap`` over the head axis.

    Args:
      reward_BT: rewards per token; ignored where masked.
      critic_BT: critic values V_t; ignored where masked.
      mask_BT: True where a token counts.
      gamma: discount γ in [0, 1].
      lam: trace decay λ in [0, 1].

    Returns:
      ``(adv_BT, return_BT)`` with return = A + V; both 0 where masked. Not whitened.
    """
    mask_BT = mask_BT.astype(bool)
    critic_BT = jnp.where(mask_BT, as_float(critic_BT), 0)
    reward_BT = jnp.where(mask_BT, as_float(reward_BT), 0).astype(critic_BT.dtype)

    def backwards(carry, token):
        next_adv_B, next_critic_B = carry
        reward_B, critic_B, mask_B = token
        adv_B = reward_B + gamma * next_critic_B - critic_B + gamma * lam * next_adv_B
        carry = jnp.where(mask_B, adv_B, next_adv_B), jnp.where(mask_B, critic_B, next_critic_B)
        return carry, adv_B

    end = jnp.zeros_like(critic_BT[:, 0])
    _, adv_TB = jax.lax.scan(backwards, (end, end), (reward_BT.T, critic_BT.T, mask_BT.T), reverse=True)
    adv_BT = jnp.where(mask_BT, adv_TB.T, 0)
    return adv_BT, adv_BT + critic_BT


def whiten(adv_BT: Array, mask_BT: Array) -> Array:
    """(x - mean) · rsqrt(var + 1e-8) over the valid tokens, var with n - 1; 0 where masked."""
    mask_BT = mask_BT.astype(bool)
    adv_BT = jnp.where(mask_BT, as_float(adv_BT), 0)
    scale = jax.lax.rsqrt(masked_var(adv_BT, mask_BT, ddof=1) + 1e-8)
    return jnp.where(mask_BT, (adv_BT - masked_mean(adv_BT, mask_BT)) * scale, 0)
