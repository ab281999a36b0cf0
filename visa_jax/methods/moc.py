"""MOC: one preference-conditioned policy by multi-objective PPO (arXiv 2604.04497; docs/moc.md).

One step: draw preferences on the simplex -> K rewards -> scale -> S signals -> advantage per signal (GAE with a
critic head each, or group means) -> min-norm weights at the policy level -> one mixed advantage -> one clipped
PPO step; KL to the reference stays outside min-norm as its own stream.
The twin of ``visa.py``: same names in the same order, so that their diff is the difference of the papers.
"""

import dataclasses

import jax
import jax.numpy as jnp

from visa_jax.config import require
from visa_jax.estimators import (
    QuantileNormalizer,
    adapt_kl_coefficient,
    fit_quantiles,
    gae,
    group_advantages,
    scale_rewards,
    whiten,
)
from visa_jax.losses import critic_loss_sum, policy_loss_sums, token_weights
from visa_jax.methods.base import Advantages, Method, PolicyOutput, last_token, reward_metrics
from visa_jax.methods.signals import SIGNALS, control_mse, make_signals, signal_names
from visa_jax.solvers import active_signals, min_norm, uniform
from visa_jax.types import Array, Batch, WeightedSum, record

WEIGHTS = ("min_norm", "frank_wolfe", "uniform")


@dataclasses.dataclass(frozen=True)
class MocConfig:
    """Numbers of MOC; marks: [paper], [read] our reading of it, [ours]."""

    reward_names: tuple[str, ...] = ("helpful", "warm")
    preferences: tuple[tuple[float, ...], ...] = ()  # the training set of preference vectors
    signals: str = "bi"  # [read] bi | target | n_plus_1 | linear | mse
    weights: str = "min_norm"  # [paper] min_norm | frank_wolfe | uniform (the fixed c ablation)
    solve: str = "preference"  # [ours] preference | batch: one Gram matrix per preference, or one for all
    normalize: str = "whiten"  # [ours] whiten | common_scale | none
    advantage: str = "gae"  # [paper: PPO] gae | group (ours, no critic)
    phi: float = 0.0  # [paper] control error below which the control signal is dropped; 0 = always on
    loss_type: str = "dapo"  # token mean over the whole batch, as PPO code bases do
    epsilon: float = 0.2
    epsilon_high: float | None = None  # None = epsilon; for cispo the cap of the ratio, about 5
    gamma: float = 1.0
    lam: float = 0.95
    critic_clip: float = 0.2
    critic_weight: float = 0.1
    kl_initial: float = 0.2  # [ours] kappa, adapted towards kl_target
    kl_target: float = 3.0
    kl_horizon: int = 10_000
    num_generations: int = 1
    max_completion_length: int = 24

    def __post_init__(self):
        require(self.signals in SIGNALS, "signals", f"{self.signals!r} is not one of {sorted(SIGNALS)}")
        require(self.weights in WEIGHTS, "weights", f"{self.weights!r} is not one of {sorted(WEIGHTS)}")
        require(self.solve in ("preference", "batch"), "solve", f"{self.solve!r} is not preference or batch")
        require(
            self.normalize in ("whiten", "common_scale", "none"),
            "normalize",
            f"{self.normalize!r} is not whiten, common_scale or none",
        )
        require(self.advantage in ("gae", "group"), "advantage", f"{self.advantage!r} is not gae or group")
        require(
            self.advantage == "gae" or self.num_generations >= 2,
            "num_generations",
            "group advantages need at least 2 completions a prompt",
        )
        # critic and policy losses are added before the division, so both must be token sums
        require(self.loss_type in ("dapo", "cispo"), "loss_type", f"{self.loss_type!r} is not dapo or cispo")
        require(self.loss_type != "cispo" or self.epsilon_high is not None, "epsilon_high", "cispo needs one, about 5")
        for i, vector in enumerate(self.preferences):
            on_simplex = len(vector) == len(self.reward_names) and min(vector) >= 0 and abs(sum(vector) - 1) < 1e-3
            require(on_simplex, f"preferences[{i}]", f"{list(vector)} is not on the simplex")


@record
class MocState:
    """What MOC remembers between steps."""

    normalizer: QuantileNormalizer
    kl_weight: Array  # float32 []: kappa
    running_mse: Array  # float32 []: scaled control error, for phi
    control_on: Array  # bool []


def make_method(config: MocConfig) -> Method:
    """MOC, or a PPO baseline that differs only in ``signals`` and ``weights``, as four pure functions."""
    names = signal_names(config.signals, len(config.reward_names))
    use_critic = config.advantage == "gae"

    def init(sample_reward_SK: Array) -> MocState:
        """Freeze the reward scale on samples of the starting policy (5 % and 95 % quantiles)."""
        return MocState(
            normalizer=fit_quantiles(sample_reward_SK),
            kl_weight=jnp.float32(config.kl_initial),
            running_mse=jnp.float32(1.0),
            control_on=jnp.bool_(True),
        )

    def condition(key, anchor_NM: Array) -> Array:
        """Preferences [N, K], uniform over the training set (the anchor gives only N)."""
        table_PK = jnp.asarray(config.preferences, jnp.float32)
        return table_PK[jax.random.randint(key, (anchor_NM.shape[0],), 0, table_PK.shape[0])]

    def combine(state: MocState, batch: Batch) -> tuple[MocState, Advantages, dict]:
        """K rewards -> S signals -> advantage per signal -> min-norm weights -> one advantage per token."""
        scored = batch.scored
        mask_BT = scored.rollout.mask_BT
        preference_NK = scored.rollout.prompts.condition_NM
        preference_BK = jnp.repeat(preference_NK, config.num_generations, axis=0)
        scaled_BK = scale_rewards(state.normalizer, scored.reward_BK)
        signal_BS = make_signals(config.signals, scaled_BK, preference_BK)
        adv_BTS, return_BTS = _signal_advantages(config, signal_BS, mask_BT, batch.critic_old_BTK[..., : len(names)])
        adv_BTS = _rescale(config.normalize, adv_BTS, mask_BT)
        adv_BTS = _drop_control(adv_BTS, names, state.control_on)

        weight_BT = token_weights(config.loss_type, mask_BT, config.max_completion_length)
        weight_NS = _solve(config, adv_BTS, weight_BT, preference_NK)
        weight_BS = jnp.repeat(weight_NS, config.num_generations, axis=0)
        mixed_BT = jnp.sum(adv_BTS * weight_BS[:, None, :], axis=-1)
        kl_adv_BT, kl_return_BT, kl = _kl_stream(config, state.kl_weight, batch, mask_BT)

        error = jnp.mean(control_mse(scaled_BK, preference_BK))
        state = _next_state(config, state, error, kl, rows=mask_BT.shape[0])
        returns = [return_BTS, kl_return_BT[..., None]] if use_critic else [jnp.zeros((*mask_BT.shape, 0))]
        advantages = Advantages(
            adv_BT=jnp.where(mask_BT, mixed_BT + kl_adv_BT, 0.0), return_BTK=jnp.concatenate(returns, axis=-1)
        )
        metrics = reward_metrics(scored.reward_BK, config.reward_names, config.num_generations)
        metrics |= {
            "reward": jnp.mean(jnp.sum(scaled_BK * preference_BK, axis=-1)),
            "control/error": error,
            "kl": kl,
            "kl_weight": state.kl_weight,
        }
        for s, name in enumerate(names):
            metrics[f"moo/weights/{name}"] = jnp.mean(weight_NS[:, s])
            metrics[f"moo/weights_std/{name}"] = jnp.std(weight_NS[:, s])
        return state, advantages, metrics | _cosines(adv_BTS, weight_BT, names)

    def loss(output: PolicyOutput, batch: Batch, advantages: Advantages) -> tuple[WeightedSum, dict]:
        """Clipped policy loss plus the critic loss of every head (equation 7)."""
        mask_BT = batch.scored.rollout.mask_BT
        total, metrics = policy_loss_sums(
            output.logp_BT,
            batch.logp_old_BT,
            advantages.adv_BT,
            mask_BT,
            loss_type=config.loss_type,
            epsilon=config.epsilon,
            epsilon_high=config.epsilon_high,
            max_completion_length=config.max_completion_length,
        )
        for k in range(advantages.return_BTK.shape[-1]):
            critic = critic_loss_sum(
                output.critic_BTK[..., k],
                batch.critic_old_BTK[..., k],
                advantages.return_BTK[..., k],
                mask_BT,
                clip=config.critic_clip,
            )
            # both are token sums over the same mask, so one division serves both
            total = WeightedSum(total=total.total + config.critic_weight * critic.total, weight=total.weight)
            metrics[f"critic_loss/{k}"] = critic
        return total, metrics

    signals = len(names) + 1 if use_critic else 0
    return Method(name="moc", signals=signals, init=init, condition=condition, combine=combine, loss=loss)


def _signal_advantages(config: MocConfig, signal_BS: Array, mask_BT: Array, critic_BTS: Array) -> tuple[Array, Array]:
    """Advantage and return [B, T, S] of each signal, which arrives at the last token."""
    if config.advantage == "group":
        adv_SB = jax.vmap(
            lambda s_B: group_advantages(s_B[:, None], config.num_generations, scale_rewards="none"), in_axes=1
        )(signal_BS)
        adv_BTS = jnp.where(mask_BT[:, :, None], adv_SB.T[:, None, :], 0.0)
        return adv_BTS, jnp.zeros_like(adv_BTS)
    reward_BTS = last_token(mask_BT)[:, :, None] * signal_BS[:, None, :]
    estimate = jax.vmap(
        lambda r_BT, c_BT: gae(r_BT, c_BT, mask_BT, gamma=config.gamma, lam=config.lam), in_axes=-1, out_axes=-1
    )
    return estimate(reward_BTS, critic_BTS)


def _rescale(kind: str, adv_BTS: Array, mask_BT: Array) -> Array:
    """Whiten every signal by itself, or all by one common deviation, or not at all."""
    if kind == "none":
        return adv_BTS
    if kind == "whiten":
        return jax.vmap(lambda adv_BT: whiten(adv_BT, mask_BT), in_axes=-1, out_axes=-1)(adv_BTS)
    count = jnp.maximum(jnp.sum(mask_BT), 2)
    mean_S = jnp.sum(adv_BTS, axis=(0, 1), where=mask_BT[:, :, None]) / count
    centred_BTS = jnp.where(mask_BT[:, :, None], adv_BTS - mean_S[None, None, :], 0.0)
    common = jnp.sqrt(jnp.sum(centred_BTS**2) / (count - 1) / adv_BTS.shape[-1])
    return centred_BTS / (common + 1e-8)


def _drop_control(adv_BTS: Array, names: tuple[str, ...], control_on: Array) -> Array:
    """Zero the control signal while the constraint is met, if there is another signal to follow."""
    if len(names) < 2 or names[-1] != "control":
        return adv_BTS
    return adv_BTS.at[..., -1].multiply(control_on.astype(adv_BTS.dtype))


def _gram(adv_BTS: Array, weight_BT: Array, prompts: int) -> Array:
    """G_kl = <s_k, s_l> under the loss's own token weights, one matrix per prompt: [N, S, S] (equation 12)."""
    rows_BSS = jnp.einsum("bts,btu,bt->bsu", adv_BTS, adv_BTS, weight_BT)
    return jnp.sum(rows_BSS.reshape(prompts, -1, *rows_BSS.shape[1:]), axis=1)


def _solve(config: MocConfig, adv_BTS: Array, weight_BT: Array, preference_NK: Array) -> Array:
    """Weights [N, S]: one solve per preference (prompts that share it pool their Gram matrices) or per batch."""
    gram_NSS = _gram(adv_BTS, weight_BT, preference_NK.shape[0])
    if config.solve == "preference":
        same_NN = jnp.all(jnp.abs(preference_NK[:, None, :] - preference_NK[None, :, :]) < 1e-6, axis=-1)
        gram_NSS = jnp.einsum("nm,msu->nsu", same_NN.astype(gram_NSS.dtype), gram_NSS)
    else:
        gram_NSS = jnp.broadcast_to(jnp.sum(gram_NSS, axis=0, keepdims=True), gram_NSS.shape)
    return jax.lax.stop_gradient(jax.vmap(lambda gram_SS: solve_weights(config.weights, gram_SS))(gram_NSS))


def solve_weights(kind: str, gram_SS: Array) -> Array:
    """Simplex weights [S] with empty signals taken out first: else a zero signal takes all the weight.

    All empty: uniform.
    """
    alive_S = active_signals(gram_SS)
    if kind == "uniform":
        return uniform(alive_S, gram_SS.dtype)
    return min_norm(gram_SS, {"min_norm": "exact"}.get(kind, kind), active_K=alive_S)


def _kl_stream(config: MocConfig, kl_weight: Array, batch: Batch, mask_BT: Array) -> tuple[Array, Array, Array]:
    """KL as a reward of its own, -kappa * k1 per token, outside min-norm and not whitened."""
    k1_BT = jnp.where(mask_BT, batch.logp_old_BT - batch.logp_ref_BT, 0.0)
    kl = jnp.sum(k1_BT) / mask_BT.shape[0]  # nats per completion, the unit of kl_target
    reward_BT = -kl_weight * k1_BT
    if config.advantage == "gae":
        adv_BT, return_BT = gae(reward_BT, batch.critic_old_BTK[..., -1], mask_BT, gamma=config.gamma, lam=config.lam)
        return adv_BT, return_BT, kl
    to_go_BT = jnp.cumsum(reward_BT[:, ::-1], axis=1)[:, ::-1]
    count_T = jnp.maximum(jnp.sum(mask_BT, axis=0), 1)
    mean_T = jnp.sum(to_go_BT, axis=0, where=mask_BT) / count_T
    return jnp.where(mask_BT, to_go_BT - mean_T[None, :], 0.0), jnp.zeros_like(k1_BT), kl


def _next_state(config: MocConfig, state: MocState, error: Array, kl: Array, rows: int) -> MocState:
    running = 0.9 * state.running_mse + 0.1 * error
    # hysteresis: off below phi, on again only above 1.5 phi
    control_on = jnp.where(state.control_on, running >= config.phi, running > 1.5 * config.phi)
    kl_weight = adapt_kl_coefficient(
        state.kl_weight, kl, rows, target=config.kl_target, horizon=float(config.kl_horizon)
    )
    return MocState(normalizer=state.normalizer, kl_weight=kl_weight, running_mse=running, control_on=control_on)


def _cosines(adv_BTS: Array, weight_BT: Array, names: tuple[str, ...]) -> dict[str, Array]:
    gram_SS = jnp.einsum("bts,btu,bt->su", adv_BTS, adv_BTS, weight_BT)
    norm_S = jnp.sqrt(jnp.diagonal(gram_SS) + 1e-12)
    return {
        f"moo/cosine/{names[i]}_{names[j]}": gram_SS[i, j] / (norm_S[i] * norm_S[j])
        for i in range(len(names))
        for j in range(i + 1, len(names))
    }
