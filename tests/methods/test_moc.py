"""MOC against arithmetic done here in numpy, and the invariances that its parts promise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.config import FieldError
from visa_jax.estimators import QuantileNormalizer
from visa_jax.methods.base import PolicyOutput
from visa_jax.methods.baselines import MOC_BASELINES
from visa_jax.methods.moc import MocConfig, make_method, solve_weights
from visa_jax.types import Batch, PromptBatch, Rollout, Scored

GROUP, PROMPTS, STEPS = 4, 3, 5
PREFERENCES = np.array([[0.2, 0.8], [0.6, 0.4], [1.0, 0.0]], np.float32)
REWARDS = np.random.default_rng(0).uniform(0, 1, (PROMPTS * GROUP, 2)).astype(np.float32)
MASK = np.arange(STEPS)[None, :] < np.array([5, 3, 1, 4] * PROMPTS)[:, None]


def make_config(**changes) -> MocConfig:
    base = {"preferences": tuple(map(tuple, PREFERENCES.tolist())), "num_generations": GROUP, "advantage": "group"}
    return MocConfig(**(base | changes))


def make_state(method, **changes):
    """A state whose reward scale is the identity."""
    state = method.init(jnp.zeros((2, 2)))
    unit = QuantileNormalizer(low_K=jnp.zeros(2), high_K=jnp.ones(2))
    return dataclasses.replace(state, **({"normalizer": unit} | changes))


def make_batch(rewards=REWARDS, preferences=PREFERENCES, mask=MASK, *, critics=0, k1=0.0, critic_value=0.0) -> Batch:
    """A batch with log p_old = -1 everywhere; k1 = log p_old - log p_ref per token."""
    prompts = PromptBatch(
        prompt_NL=jnp.ones((len(preferences), 2), jnp.int32),
        prompt_mask_NL=jnp.ones((len(preferences), 2), bool),
        condition_NM=jnp.asarray(preferences),
        context_NS=jnp.ones((len(preferences), 1), jnp.int32),
        context_mask_NS=jnp.ones((len(preferences), 1), bool),
    )
    logp = jnp.full(mask.shape, -1.0)
    rollout = Rollout(prompts=prompts, completion_BT=jnp.ones(mask.shape, jnp.int32), mask_BT=mask, logp_BT=logp)
    return Batch(
        scored=Scored(rollout=rollout, reward_BK=jnp.asarray(rewards)),
        logp_old_BT=logp,
        logp_ref_BT=logp - jnp.asarray(k1),
        critic_old_BTK=jnp.full((*mask.shape, critics), critic_value),
    )


def group_oracle(rewards, preferences, mask):
    """Whitened group advantages [B, T, 2] of the signals (mean reward, -control error), by numpy alone."""
    preference_BK = np.repeat(preferences, GROUP, axis=0)
    signal_BS = np.stack([rewards.mean(1), -((rewards - preference_BK) ** 2).mean(1)], axis=1)
    centred = signal_BS.reshape(-1, GROUP, 2)
    centred = (centred - centred.mean(1, keepdims=True)).reshape(-1, 1, 2)
    adv = np.broadcast_to(centred, (*mask.shape, 2)).astype(np.float64)
    tokens = adv[mask]
    whitened = (adv - tokens.mean(0)) / np.sqrt(tokens.var(0, ddof=1) + 1e-8)
    return np.where(mask[:, :, None], whitened, 0)


def closed_form(gram):
    """c of min-norm for two signals: clip((G22 - G12) / (G11 + G22 - 2 G12), 0, 1)."""
    first = np.clip((gram[1, 1] - gram[0, 1]) / (gram[0, 0] + gram[1, 1] - 2 * gram[0, 1]), 0, 1)
    return np.array([first, 1 - first])


def test_group_variant_solved_per_preference_by_hand():
    adv = group_oracle(REWARDS, PREFERENCES, MASK)
    per_prompt = adv.reshape(PROMPTS, GROUP, STEPS, 2)
    weight_NS = np.stack([closed_form(np.einsum("gts,gtu->su", a, a)) for a in per_prompt])
    mixed = np.einsum("ngts,ns->ngt", per_prompt, weight_NS).reshape(MASK.shape)

    method = make_method(make_config())
    _, advantages, metrics = method.combine(make_state(method), make_batch())
    np.testing.assert_allclose(advantages.adv_BT, mixed, atol=1e-5)
    np.testing.assert_allclose(metrics["moo/weights/reward"], weight_NS[:, 0].mean(), atol=1e-5)
    np.testing.assert_allclose(metrics["moo/weights_std/reward"], weight_NS[:, 0].std(), atol=1e-5)
    assert weight_NS[:, 0].std() > 0.05  # the solve acts: preferences get different weights
    assert advantages.return_BTK.shape == (*MASK.shape, 0)


def test_one_solve_for_a_whitened_pair_is_vacuous():
    # both signals have the same norm over the same tokens, G11 = G22, so c = 1/2 whatever G12 is
    batch_wide = make_method(make_config(solve="batch"))
    _, advantages, metrics = batch_wide.combine(make_state(batch_wide), make_batch())
    np.testing.assert_allclose(metrics["moo/weights/reward"], 0.5, atol=1e-5)
    np.testing.assert_allclose(metrics["moo/weights_std/reward"], 0.0, atol=1e-6)
    fixed = make_method(make_config(**MOC_BASELINES["fixed_half"]))
    _, fixed_advantages, _ = fixed.combine(make_state(fixed), make_batch())
    np.testing.assert_allclose(advantages.adv_BT, fixed_advantages.adv_BT, atol=1e-5)


def test_one_solve_acts_where_the_pair_is_not_whitened():
    method = make_method(make_config(solve="batch", normalize="common_scale"))
    metrics = method.combine(make_state(method), make_batch())[2]
    assert abs(float(metrics["moo/weights/reward"]) - 0.5) > 0.02


def test_prompts_with_one_preference_share_one_solve():
    same = np.repeat(PREFERENCES[:1], PROMPTS, axis=0)
    pooled, batch_wide = make_method(make_config()), make_method(make_config(solve="batch"))
    _, of_preference, metrics = pooled.combine(make_state(pooled), make_batch(preferences=same))
    _, of_batch, _ = batch_wide.combine(make_state(batch_wide), make_batch(preferences=same))
    np.testing.assert_allclose(metrics["moo/weights_std/reward"], 0.0, atol=1e-6)
    np.testing.assert_allclose(of_preference.adv_BT, of_batch.adv_BT, atol=1e-5)


@pytest.mark.parametrize("kind", ["min_norm", "frank_wolfe"])
def test_empty_signals_leave_the_simplex_before_the_solve(kind):
    # min-norm itself would give the zero signal all the weight
    np.testing.assert_allclose(solve_weights(kind, jnp.diag(jnp.array([0.0, 4.0]))), [0, 1], atol=1e-4)
    # without the empty one in the middle: c_1 = 4 / (1 + 4)
    np.testing.assert_allclose(solve_weights(kind, jnp.diag(jnp.array([1.0, 0.0, 4.0]))), [0.8, 0, 0.2], atol=1e-3)
    np.testing.assert_allclose(solve_weights(kind, jnp.zeros((3, 3))), [1 / 3] * 3, atol=1e-6)


def test_uniform_weights_are_shared_by_the_signals_that_are_left():
    np.testing.assert_allclose(solve_weights("uniform", jnp.diag(jnp.array([1.0, 0.0, 4.0]))), [0.5, 0, 0.5], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_weights_do_not_depend_on_the_scale_of_the_signals(scale):
    gram_SS = jnp.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 0.0]])
    expected = [*closed_form(np.asarray(gram_SS[:2, :2])), 0]
    np.testing.assert_allclose(solve_weights("min_norm", scale * gram_SS), expected, atol=1e-5)


def test_a_constant_signal_gets_no_weight_and_stops_nothing():
    # both rewards equal 1 - the other: the mean reward is 1/2 in every row
    rewards = np.stack([REWARDS[:, 0], 1 - REWARDS[:, 0]], axis=1)
    method = make_method(make_config())
    _, advantages, metrics = method.combine(make_state(method), make_batch(rewards=rewards))
    np.testing.assert_allclose(metrics["moo/weights/control"], 1.0, atol=1e-4)
    control = group_oracle(rewards, PREFERENCES, MASK)[..., 1]
    np.testing.assert_allclose(advantages.adv_BT, control, atol=1e-3)


def after_one_step(phi, running, error, control_on):
    """State after a batch whose control error is ``error`` in every row, with ``running`` before it."""
    method = make_method(make_config(phi=phi))
    rewards = np.repeat(PREFERENCES, GROUP, axis=0) + np.sqrt(error)
    state = make_state(method, running_mse=jnp.float32(running), control_on=jnp.bool_(control_on))
    return method.combine(state, make_batch(rewards=rewards))[0]


@pytest.mark.parametrize(
    ("before", "running", "after"),
    [(True, 0.021, True), (True, 0.019, False), (False, 0.029, False), (False, 0.031, True)],
)
def test_phi_switches_the_control_signal_with_hysteresis(before, running, after):
    # off below 0.02, on again above 0.03; the new running error is 0.9 * old + 0.1 * 0.01
    state = after_one_step(0.02, (running - 0.1 * 0.01) / 0.9, 0.01, before)
    np.testing.assert_allclose(state.running_mse, running, atol=1e-5)
    assert bool(state.control_on) is after


def test_without_phi_control_is_always_on():
    assert bool(after_one_step(0.0, 0.0, 0.0, True).control_on)


@pytest.mark.parametrize("signals", ["bi", "n_plus_1"])
@pytest.mark.parametrize("weights", ["min_norm", "uniform"])
def test_a_dropped_control_signal_has_no_part_in_the_advantage(signals, weights):
    method = make_method(make_config(signals=signals, weights=weights, phi=0.02))
    off = make_state(method, control_on=jnp.bool_(False))
    _, advantages, metrics = method.combine(off, make_batch())
    np.testing.assert_allclose(metrics["moo/weights/control"], 0.0, atol=1e-6)
    assert float(jnp.max(jnp.abs(advantages.adv_BT))) > 0.1
    if signals == "bi":
        np.testing.assert_allclose(advantages.adv_BT, group_oracle(REWARDS, PREFERENCES, MASK)[..., 0], atol=1e-5)


def test_gae_variant_brings_each_signal_at_the_last_token():
    # critic 0, gamma 1, lambda 1/2: the advantage t tokens before the last one is signal * 2^-t; returns equal it
    method = make_method(make_config(advantage="gae", lam=0.5, normalize="none", weights="uniform", num_generations=1))
    assert method.signals == 3  # one critic head for each signal and one for the KL
    rewards, mask = REWARDS[:PROMPTS], MASK[:PROMPTS]
    batch = make_batch(rewards=rewards, mask=mask, critics=3)
    _, advantages, _ = method.combine(make_state(method), batch)
    signal_BS = np.stack([rewards.mean(1), -((rewards - PREFERENCES) ** 2).mean(1)], axis=1)
    before_last = mask.sum(1)[:, None] - 1 - np.arange(STEPS)[None, :]
    decay_BT = np.where(mask, 0.5**before_last, 0.0)
    np.testing.assert_allclose(advantages.return_BTK[..., :2], decay_BT[:, :, None] * signal_BS[:, None], atol=1e-6)
    np.testing.assert_allclose(advantages.return_BTK[..., 2], 0.0, atol=1e-6)
    np.testing.assert_allclose(advantages.adv_BT, decay_BT * signal_BS.mean(1)[:, None], atol=1e-6)


@pytest.mark.parametrize("kl_weight", [0.2, 0.4])
def test_kl_is_added_after_mixing_and_not_whitened(kl_weight):
    rng = np.random.default_rng(1)
    k1 = rng.normal(size=MASK.shape).astype(np.float32)
    method = make_method(make_config(advantage="gae", lam=1.0))
    state = make_state(method, kl_weight=jnp.float32(kl_weight))
    _, without, before = method.combine(state, make_batch(critics=3))
    _, with_kl, after = method.combine(state, make_batch(critics=3, k1=k1))
    # lambda = gamma = 1 and a critic of 0: the sum of -kappa * k1 over this and all later tokens of the row
    stream = -kl_weight * np.where(MASK, k1, 0)[:, ::-1].cumsum(1)[:, ::-1]
    np.testing.assert_allclose(with_kl.adv_BT - without.adv_BT, np.where(MASK, stream, 0), atol=1e-5)
    np.testing.assert_allclose(with_kl.return_BTK[..., 2], np.where(MASK, stream, 0), atol=1e-5)
    np.testing.assert_allclose(after["kl"], np.where(MASK, k1, 0).sum() / len(MASK), atol=1e-5)
    np.testing.assert_allclose(after["moo/weights/reward"], before["moo/weights/reward"], atol=1e-6)


def test_kl_weight_follows_its_target():
    # 12 rows with KL 5 * 5/3 > 1.2 * 3 nats: kappa grows by 0.2 * 12 / 10,000, whatever the excess
    method = make_method(make_config())
    state, _, _ = method.combine(make_state(method), make_batch(k1=5.0))
    np.testing.assert_allclose(state.kl_weight, 0.2 * (1 + 0.2 * 12 / 10_000), rtol=1e-6)


@pytest.mark.parametrize("signals", ["bi", "target", "n_plus_1", "linear", "mse"])
def test_permuting_the_objectives_changes_nothing(signals):
    method = make_method(make_config(signals=signals))
    scale = QuantileNormalizer(low_K=jnp.array([0.1, 0.0]), high_K=jnp.array([0.8, 2.0]))
    swapped = QuantileNormalizer(low_K=scale.low_K[::-1], high_K=scale.high_K[::-1])
    _, one, _ = method.combine(make_state(method, normalizer=scale), make_batch())
    batch = make_batch(rewards=REWARDS[:, ::-1], preferences=PREFERENCES[:, ::-1])
    _, two, _ = method.combine(make_state(method, normalizer=swapped), batch)
    np.testing.assert_allclose(one.adv_BT, two.adv_BT, atol=1e-5)


def test_masked_tokens_may_hold_anything():
    method = make_method(make_config(advantage="gae"))
    clean = make_batch(critics=3, k1=0.1)
    dirty = dataclasses.replace(
        clean,
        logp_old_BT=jnp.where(MASK, clean.logp_old_BT, 7.0),
        logp_ref_BT=jnp.where(MASK, clean.logp_ref_BT, -9.0),
        critic_old_BTK=jnp.where(MASK[:, :, None], clean.critic_old_BTK, 1e3),
    )
    _, expected, _ = method.combine(make_state(method), clean)
    _, found, _ = method.combine(make_state(method), dirty)
    np.testing.assert_allclose(found.adv_BT, expected.adv_BT, atol=1e-6)
    np.testing.assert_allclose(found.return_BTK, expected.return_BTK, atol=1e-6)


@pytest.mark.parametrize("advantage", ["gae", "group"])
@pytest.mark.parametrize("empty_rows", [1, len(MASK)])
def test_masked_rows_are_finite_and_teach_nothing(advantage, empty_rows):
    mask = MASK.copy()
    mask[:empty_rows] = False
    method = make_method(make_config(advantage=advantage))
    batch = make_batch(mask=mask, critics=method.signals, k1=0.3)
    state, advantages, metrics = method.combine(make_state(method), batch)
    for name, value in (metrics | {"running_mse": state.running_mse, "kl_weight": state.kl_weight}).items():
        assert np.isfinite(value), name
    assert np.all(np.asarray(advantages.adv_BT)[:empty_rows] == 0)

    def loss(logp_BT, critic_BTK):
        return method.loss(PolicyOutput(logp_BT=logp_BT, critic_BTK=critic_BTK), batch, advantages)[0].mean()

    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(batch.logp_old_BT + 0.1, batch.critic_old_BTK + 0.1)
    assert np.isfinite(value)
    for grad in grads:
        assert np.all(np.isfinite(grad)) and np.all(np.asarray(grad)[:empty_rows] == 0)


def test_loss_is_policy_plus_weighted_critics_over_one_count():
    # ratio 1: the policy part is -mean adv; each critic is 1/2 mean (V - R)^2, here V = V_old = 0.5
    method = make_method(make_config(advantage="gae", critic_weight=0.1))
    batch = make_batch(critics=3, k1=0.1, critic_value=0.5)
    _, advantages, _ = method.combine(make_state(method), batch)
    output = PolicyOutput(logp_BT=batch.logp_old_BT, critic_BTK=batch.critic_old_BTK)
    total, metrics = method.loss(output, batch, advantages)
    policy = -np.asarray(advantages.adv_BT)[MASK].mean()
    critics = [0.5 * np.mean((0.5 - np.asarray(advantages.return_BTK)[..., k][MASK]) ** 2) for k in range(3)]
    np.testing.assert_allclose(total.mean(), policy + 0.1 * sum(critics), atol=1e-5)
    np.testing.assert_allclose([metrics[f"critic_loss/{k}"].mean() for k in range(3)], critics, atol=1e-5)


def test_linear_ppo_under_a_corner_preference_is_single_objective():
    # p = (1, 0): the one signal is the first reward, so the advantage must not see the second
    corner = np.array([[1.0, 0.0]] * PROMPTS, np.float32)
    method = make_method(make_config(**MOC_BASELINES["linear_ppo"]))
    other = np.stack([REWARDS[:, 0], REWARDS[::-1, 1]], axis=1)
    _, one, _ = method.combine(make_state(method), make_batch(preferences=corner))
    _, two, _ = method.combine(make_state(method), make_batch(rewards=other, preferences=corner))
    np.testing.assert_allclose(one.adv_BT, two.adv_BT, atol=1e-6)
    grouped = REWARDS[:, 0].reshape(-1, GROUP)
    advantage = np.repeat((grouped - grouped.mean(1, keepdims=True)).reshape(-1, 1), STEPS, axis=1)
    expected = (advantage - advantage[MASK].mean()) / advantage[MASK].std(ddof=1)
    np.testing.assert_allclose(one.adv_BT, np.where(MASK, expected, 0), atol=1e-4)


def test_preferences_are_drawn_from_the_training_set_evenly():
    method = make_method(make_config())
    drawn = np.asarray(method.condition(jax.random.key(0), jnp.zeros((3000, 2))))
    counts = [np.sum(np.all(np.isclose(drawn, p[None, :]), axis=1)) for p in PREFERENCES]
    assert sum(counts) == 3000
    assert min(counts) > 900  # 1000 expected, deviation 26
    again = method.condition(jax.random.key(0), jnp.zeros((3000, 2)))
    np.testing.assert_array_equal(drawn, again)


def test_reward_scale_is_fitted_once_and_kept():
    method = make_method(make_config())
    samples = np.stack([np.arange(101.0), 10 * np.arange(101.0)], axis=1)
    state = method.init(jnp.asarray(samples, jnp.float32))
    np.testing.assert_allclose(state.normalizer.low_K, [5, 50], atol=1e-4)
    np.testing.assert_allclose(state.normalizer.high_K, [95, 950], atol=1e-4)
    after, _, _ = method.combine(state, make_batch())
    np.testing.assert_array_equal(after.normalizer.high_K, state.normalizer.high_K)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"signals": "b1"}, "signals"),
        ({"weights": "minnorm"}, "weights"),
        ({"solve": "row"}, "solve"),
        ({"normalize": "white"}, "normalize"),
        ({"advantage": "rloo"}, "advantage"),
        ({"num_generations": 1}, "num_generations"),
        ({"loss_type": "grpo"}, "loss_type"),
        ({"preferences": ((0.5, 0.6),)}, r"preferences\[0\]"),
        ({"preferences": ((0.5, 0.5), (-0.1, 1.1))}, r"preferences\[1\]"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, field):
    with pytest.raises(FieldError, match=field):
        make_config(**changes)
