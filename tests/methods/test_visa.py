"""VISA's step against arithmetic done here in numpy; with one weight it must be single-objective GRPO."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.config import FieldError
from visa_jax.losses import policy_loss
from visa_jax.methods.base import PolicyOutput
from visa_jax.methods.baselines import VISA_BASELINES
from visa_jax.methods.visa import VisaConfig, make_method
from visa_jax.types import Batch, PromptBatch, Rollout, Scored

GROUP, PROMPTS, STEPS = 4, 3, 5
WEIGHTS = (0.5, 0.5, 1.0, 0.1)
REWARDS = np.random.default_rng(0).uniform(0, 1, (PROMPTS * GROUP, 4)).astype(np.float32)
MASK = np.arange(STEPS)[None, :] < np.array([5, 3, 1, 4] * PROMPTS)[:, None]


def make_config(**changes) -> VisaConfig:
    return VisaConfig(**({"reward_weights": WEIGHTS, "num_generations": GROUP} | changes))


def make_batch(rewards=REWARDS, mask=MASK, logp_ref=-1.0) -> Batch:
    """A batch with log p_old = -1 everywhere."""
    prompts = PromptBatch(
        prompt_NL=jnp.ones((PROMPTS, 2), jnp.int32),
        prompt_mask_NL=jnp.ones((PROMPTS, 2), bool),
        condition_NM=jnp.zeros((PROMPTS, 10)),
        context_NS=jnp.ones((PROMPTS, 1), jnp.int32),
        context_mask_NS=jnp.ones((PROMPTS, 1), bool),
    )
    logp = jnp.full(mask.shape, -1.0)
    rollout = Rollout(prompts=prompts, completion_BT=jnp.ones(mask.shape, jnp.int32), mask_BT=mask, logp_BT=logp)
    return Batch(
        scored=Scored(rollout=rollout, reward_BK=jnp.asarray(rewards)),
        logp_old_BT=logp,
        logp_ref_BT=jnp.full(mask.shape, logp_ref),
        critic_old_BTK=jnp.zeros((*mask.shape, 0)),
    )


def grpo_oracle(total):
    """(R - mean) / (std + 1e-4) within each group, sample deviation."""
    grouped = total.reshape(-1, GROUP)
    deviation = grouped.std(1, ddof=1, keepdims=True)
    return ((grouped - grouped.mean(1, keepdims=True)) / (deviation + 1e-4)).reshape(-1)


def step(config, batch, logp_BT):
    """Advantages, loss and its gradient with respect to the log-probabilities."""
    method = make_method(config)
    _, advantages, metrics = method.combine(method.init(), batch)

    def loss(logp_BT):
        output = PolicyOutput(logp_BT=logp_BT, critic_BTK=jnp.zeros((*logp_BT.shape, 0)))
        return method.loss(output, batch, advantages)[0].mean()

    return advantages.adv_BT, *jax.value_and_grad(loss)(logp_BT), metrics


def test_advantage_is_the_weighted_sum_normalised_within_the_group():
    adv_BT, _, _, metrics = step(make_config(), make_batch(), jnp.full(MASK.shape, -1.0))
    total = REWARDS @ np.array(WEIGHTS)
    np.testing.assert_allclose(adv_BT, np.where(MASK, grpo_oracle(total)[:, None], 0), atol=1e-4)
    np.testing.assert_allclose(metrics["reward"], total.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["rewards/consistency/mean"], REWARDS[:, 1].mean(), rtol=1e-5)


def test_a_reward_that_does_not_apply_is_left_out_of_its_row():
    rewards = REWARDS.copy()
    rewards[2, 1] = np.nan
    adv_BT, _, _, metrics = step(make_config(), make_batch(rewards), jnp.full(MASK.shape, -1.0))
    total = np.nan_to_num(rewards) @ np.array(WEIGHTS)
    np.testing.assert_allclose(adv_BT, np.where(MASK, grpo_oracle(total)[:, None], 0), atol=1e-4)
    np.testing.assert_allclose(metrics["reward"], total.mean(), rtol=1e-5)


@pytest.mark.parametrize(("name", "column"), [("grpo_value", 0), ("grpo_consistency", 1)])
def test_one_weight_at_one_is_single_objective_grpo(name, column):
    weights = tuple(float(k == column) for k in range(4))
    logp_BT = -1.0 + 0.3 * jax.random.normal(jax.random.key(0), MASK.shape)
    visa = step(make_config(reward_weights=weights), make_batch(), logp_BT)
    config = make_config(**VISA_BASELINES[name])
    grpo = step(config, make_batch(REWARDS[:, column : column + 1]), logp_BT)
    for ours, theirs in zip(visa[:3], grpo[:3], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # and both are GRPO as anybody would write it down
    adv_B = jnp.asarray(grpo_oracle(REWARDS[:, column]), jnp.float32)
    batch = make_batch()
    loss, _ = policy_loss(
        logp_BT, batch.logp_old_BT, adv_B, MASK, loss_type="grpo", beta=0.04, logp_ref_BT=batch.logp_ref_BT
    )
    np.testing.assert_allclose(grpo[1], loss, atol=1e-5)


def test_first_step_has_loss_zero_but_a_gradient():
    # rows of one length: the ratio is 1 and advantages sum to 0 in every group; reference = policy, so no KL
    mask = np.ones_like(MASK)
    _, loss, grad_BT, _ = step(make_config(), make_batch(mask=mask), jnp.full(mask.shape, -1.0))
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)
    # d loss / d logp = -A / T / B, by hand
    expected = -grpo_oracle(REWARDS @ np.array(WEIGHTS))[:, None] / STEPS / len(mask)
    np.testing.assert_allclose(grad_BT, np.broadcast_to(expected, mask.shape), atol=1e-5)


def test_kl_to_the_first_rewriter_is_weighted_by_beta():
    # u = ref - logp = 0.5 on every token: k3 = e^0.5 - 1.5
    mask = np.ones_like(MASK)
    batch, logp_BT = make_batch(mask=mask, logp_ref=-0.5), jnp.full(mask.shape, -1.0)
    losses = [step(make_config(beta=beta), batch, logp_BT)[1] for beta in (0.0, 0.1, 0.2)]
    np.testing.assert_allclose(np.diff(losses), 0.1 * (np.exp(0.5) - 1.5), atol=1e-6)


def test_masked_rows_are_finite_and_teach_nothing():
    mask = np.zeros_like(MASK)
    mask[0] = True
    adv_BT, loss, grad_BT, metrics = step(make_config(), make_batch(mask=mask), jnp.full(mask.shape, -0.9))
    assert np.isfinite(loss) and all(np.isfinite(value) for value in metrics.values())
    assert np.all(np.asarray(adv_BT)[1:] == 0) and np.all(np.asarray(grad_BT)[1:] == 0)
    assert np.all(np.isfinite(grad_BT)) and np.any(np.asarray(grad_BT)[0] != 0)


def test_groups_without_differences_teach_nothing_and_are_counted():
    rewards = REWARDS.copy()
    rewards[:GROUP] = 0.5
    adv_BT, _, _, metrics = step(make_config(), make_batch(rewards), jnp.full(MASK.shape, -1.0))
    np.testing.assert_allclose(np.asarray(adv_BT)[:GROUP], 0.0, atol=1e-6)
    np.testing.assert_allclose(metrics["frac_reward_zero_std"], 1 / PROMPTS, rtol=1e-6)


def test_targets_are_the_source_moved_by_a_sparse_shift():
    method = make_method(make_config(active_shift_min=1, active_shift_max=2))
    source_NM = jnp.zeros((500, 10))
    target_NM = np.asarray(method.condition(jax.random.key(0), source_NM))
    moved_N = (target_NM != 0).sum(1)
    assert set(moved_N) == {1, 2}
    assert set(np.unique(np.abs(target_NM))) <= {0.0, 0.5, 1.0}  # shifts of 1½ and 2 are clipped
    # a source at the upper end can only stay or go down
    down_NM = np.asarray(method.condition(jax.random.key(0), source_NM + 1)) - 1
    assert down_NM.max() == 0 and down_NM.min() >= -2


def test_visa_keeps_no_state():
    method = make_method(make_config())
    state, _, _ = method.combine(method.init(), make_batch())
    assert jax.tree.leaves(state) == [] and method.signals == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_generations": 1}, "num_generations"),
        ({"reward_weights": (1.0,)}, "reward_weights"),
        ({"beta": -0.1}, "beta"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, field):
    with pytest.raises(FieldError, match=field):
        make_config(**changes)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_config().beta = 1.0
