"""The clipped policy losses of GRPO's family, with the conventions of TRL 1.16.

1. ratio ρ per token or per row     2. KL to the reference     3. loss per token, a table by name
4. token masks                      5. + β KL                  6. reduction, see ``reduce.py``
"""

import jax
import jax.numpy as jnp

from visa_jax.estimators.kl import kl_estimate
from visa_jax.losses.reduce import reduce_tokens
from visa_jax.ops.masked import masked_sum
from visa_jax.ops.numerics import as_float
from visa_jax.types import Array, WeightedSum

SAPO_TEMPERATURES = (1.0, 1.05)  # where the advantage is positive, elsewhere (Gao et al. 2025)


def _clipped(ratio, logp, adv, low, high, delta):
    """-min(min(ρ, δ) A, clip(ρ, low, high) A): PPO's pessimist, two-sided with δ (INTELLECT-2)."""
    capped = ratio if delta is None else jnp.minimum(ratio, delta)
    return -jnp.minimum(capped * adv, jnp.clip(ratio, low, high) * adv)


def _cispo(ratio, logp, adv, low, high, delta):
    """-stop_gradient(min(ρ, cap)) A log π: no token loses its gradient (MiniMax-M1 2025, eq. 4)."""
    return -jax.lax.stop_gradient(jnp.minimum(ratio, high)) * adv * logp


def _sapo(ratio, logp, adv, low, high, delta):
    """-(4/τ) σ(τ(ρ - 1)) A: a soft gate in the place of the clip (SAPO, Gao et al. 2025)."""
    tau = jnp.where(adv > 0, *SAPO_TEMPERATURES)
    return -(4 / tau) * jax.nn.sigmoid(tau * (ratio - 1)) * adv


TOKEN_LOSSES = {
    "grpo": _clipped,
    "bnpo": _clipped,
    "dr_grpo": _clipped,
    "dapo": _clipped,
    "luspo": _clipped,
    "cispo": _cispo,
    "sapo": _sapo,
}
LOSS_TYPES = tuple(TOKEN_LOSSES)
LEVELS = ("token", "sequence")


def policy_loss(
    logp_BT: Array,
    logp_old_BT: Array,
    adv: Array,
    mask_BT: Array,
    *,
    loss_type: str = "grpo",
    importance_sampling_level: str = "token",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    beta: float = 0.0,
    logp_ref_BT: Array | None = None,
    bias_corrected_kl: bool = False,
    max_completion_length: int | None = None,
    keep_BT: Array | None = None,
    kl_kind: str = "k3",
) -> tuple[Array, dict[str, Array]]:
    """The policy loss of one batch.

    With ρ = exp(logp - logp_old): grpo, bnpo, dr_grpo, dapo, luspo take -min(min(ρ, δ) A,
    clip(ρ, 1 - ε, 1 + ε_high) A) and differ in the reduction; cispo and sapo also in the loss per token.
    At the first step ρ = 1 and group advantages sum to 0, so the loss of grpo is 0; its gradient is not.

    Args:
      logp_BT: log-probabilities of the sampled tokens under the policy, at the sampling temperature.
      logp_old_BT: the same under the policy that sampled.
      adv: advantages ``[B]`` or ``[B, T]``; data, not differentiated through by itself.
      mask_BT: True where a token counts. Masked entries of every argument may hold anything.
      loss_type: one of ``LOSS_TYPES``.
      importance_sampling_level: ``"token"``, or ``"sequence"``: one ρ per row, the exponential of the mean
        log-ratio (GSPO, Zheng et al. 2025).
      epsilon: lower clip range ε.
      epsilon_high: upper clip range, None = ε; for cispo the absolute cap of ρ (about 5), required.
      delta: upper bound of ρ before it meets A, None = none.
      beta: weight of the KL term; 0 = no KL term.
      logp_ref_BT: log-probabilities under the reference; required unless ``beta`` is 0.
      bias_corrected_kl: multiply the KL by ρ, differentiating through both (DeepSeek-V3.2).
      max_completion_length: the constant of dr_grpo's divisor.
      keep_BT: False drops a token from the policy term but not from the KL term or the divisor
        (entropy-quantile and off-policy masks); None keeps all.
      kl_kind: ``"k2"`` or ``"k3"``; k1 is refused, its gradient has mean zero.

    Returns:
      ``(loss, metrics)``; metrics has ``clip_ratio/{low,high,region}_mean``, ``ratio_mean`` and, given
      ``logp_ref_BT``, ``kl``. ``bnpo`` is the one loss that changes with micro-batching.

    Raises:
      ValueError: an unknown name, cispo without ``epsilon_high``, a KL term without ``logp_ref_BT``,
        ``kl_kind`` k1, dr_grpo without ``max_completion_length``, or ``adv`` of another shape.
    """
    loss, metrics = policy_loss_sums(
        logp_BT,
        logp_old_BT,
        adv,
        mask_BT,
        loss_type=loss_type,
        importance_sampling_level=importance_sampling_level,
        epsilon=epsilon,
        epsilon_high=epsilon_high,
        delta=delta,
        beta=beta,
        logp_ref_BT=logp_ref_BT,
        bias_corrected_kl=bias_corrected_kl,
        max_completion_length=max_completion_length,
        keep_BT=keep_BT,
        kl_kind=kl_kind,
    )
    return loss.mean(), {name: metric.mean() for name, metric in metrics.items()}


def policy_loss_sums(
    logp_BT: Array,
    logp_old_BT: Array,
    adv: Array,
    mask_BT: Array,
    *,
    loss_type: str = "grpo",
    importance_sampling_level: str = "token",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    beta: float = 0.0,
    logp_ref_BT: Array | None = None,
    bias_corrected_kl: bool = False,
    max_completion_length: int | None = None,
    keep_BT: Array | None = None,
    kl_kind: str = "k3",
) -> tuple[WeightedSum, dict[str, WeightedSum]]:
    """``policy_loss`` before its last division: add these over micro-batches and devices, then take ``mean()``.

    Args, Raises: as in ``policy_loss``. The weights do not depend on the policy, so the gradient of the
    loss is the gradient of the total divided by the weight.

    Returns:
      ``(loss, metrics)`` as ``WeightedSum``s.
    """
    _check(loss_type, importance_sampling_level, epsilon_high, kl_kind)
    has_kl_term = not (isinstance(beta, int | float) and beta == 0)
    if has_kl_term and logp_ref_BT is None:
        raise ValueError("logp_ref_BT must be given when beta is not 0")
    mask_BT = mask_BT.astype(bool)
    # emptied where masked, so that neither the value nor the gradient of a masked token is ever computed
    logp_BT, logp_old_BT, adv_BT = (_fill(x, mask_BT) for x in (logp_BT, logp_old_BT, _spread(adv, mask_BT)))

    ratio_BT = _ratio(importance_sampling_level, logp_BT - logp_old_BT, mask_BT)
    high = epsilon if epsilon_high is None else epsilon_high
    bounds = (1 - epsilon, high if loss_type == "cispo" else 1 + high)
    loss_BT = TOKEN_LOSSES[loss_type](ratio_BT, logp_BT, adv_BT, *bounds, delta)
    if keep_BT is not None:
        loss_BT = jnp.where(keep_BT.astype(bool), loss_BT, 0)

    metrics = _clip_metrics(loss_type, importance_sampling_level, ratio_BT, adv_BT, mask_BT, *bounds)
    if logp_ref_BT is not None:
        kl_BT = kl_estimate(logp_BT, _fill(logp_ref_BT, mask_BT), kl_kind)
        kl_BT = kl_BT * ratio_BT if bias_corrected_kl else kl_BT
        metrics["kl"] = reduce_tokens("dapo", kl_BT, mask_BT)
        if has_kl_term:
            loss_BT = loss_BT + beta * kl_BT
    return reduce_tokens(loss_type, loss_BT, mask_BT, max_completion_length), metrics


def _check(loss_type, level, epsilon_high, kl_kind):
    if loss_type not in TOKEN_LOSSES:
        raise ValueError(f"loss_type must be one of {', '.join(LOSS_TYPES)}, got {loss_type!r}")
    if level not in LEVELS:
        raise ValueError(f"importance_sampling_level must be one of {', '.join(LEVELS)}, got {level!r}")
    if loss_type == "cispo" and epsilon_high is None:
        raise ValueError("epsilon_high must be given for loss_type 'cispo': there it is the cap of the ratio, about 5")
    if kl_kind == "k1":
        raise ValueError("kl_kind must not be k1 in a loss: its gradient has mean zero; use k2 or k3")


def _spread(adv, mask_BT):
    adv = as_float(adv)
    if adv.shape not in (mask_BT.shape, mask_BT.shape[:1]):
        raise ValueError(f"adv must have shape {mask_BT.shape[:1]} or {mask_BT.shape}, got {adv.shape}")
    return jnp.broadcast_to(adv[:, None] if adv.ndim == 1 else adv, mask_BT.shape)


def _fill(x_BT, mask_BT):
    return jnp.where(mask_BT, as_float(x_BT), 0)


def _ratio(level, log_ratio_BT, mask_BT):
    if level == "token":
        return jnp.exp(log_ratio_BT)
    length_B1 = jnp.maximum(jnp.sum(mask_BT, axis=1, keepdims=True), 1).astype(log_ratio_BT.dtype)
    mean_B1 = masked_sum(log_ratio_BT, mask_BT, axis=1, keepdims=True) / length_B1
    return jnp.broadcast_to(jnp.exp(mean_B1), mask_BT.shape)


def _clip_metrics(loss_type, level, ratio_BT, adv_BT, mask_BT, low, high):
    """Shares of tokens (rows at sequence level) whose gradient the clip takes; cispo has no lower, sapo no clip."""
    low_BT = (ratio_BT < low) & (adv_BT < 0) & (loss_type not in ("cispo", "sapo"))
    high_BT = (ratio_BT > high) & (adv_BT > 0) & (loss_type != "sapo")
    shares = {
        "clip_ratio/low_mean": low_BT,
        "clip_ratio/high_mean": high_BT,
        "clip_ratio/region_mean": low_BT | high_BT,
        "ratio_mean": jax.lax.stop_gradient(ratio_BT),
    }
    reduction = "dapo" if level == "token" else "grpo"
    return {name: reduce_tokens(reduction, x.astype(ratio_BT.dtype), mask_BT) for name, x in shares.items()}
