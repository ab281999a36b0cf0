"""The update on a table policy: on-policy = explicit old log-probabilities, groups stay whole, nothing recompiles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from visa_jax.methods.moc import MocConfig
from visa_jax.methods.moc import make_method as make_moc
from visa_jax.methods.visa import VisaConfig
from visa_jax.methods.visa import make_method as make_visa
from visa_jax.training.state import init_state
from visa_jax.training.update import make_update, split_rows
from visa_jax.types import PromptBatch, Rollout, Scored

VOCAB, STEPS, PROMPTS, GROUP, END = 5, 4, 4, 4, 2


def policy_fn(params, rollout):
    """A table of log-probabilities by position; the critics are a table too."""
    logp_TV = jax.nn.log_softmax(params["table"])
    here = jax.nn.one_hot(rollout.completion_BT, VOCAB)
    logp_BT = jnp.where(rollout.mask_BT, jnp.einsum("btv,tv->bt", here, logp_TV), 0.0)
    critic = jnp.broadcast_to(params["critic"][None], (*logp_BT.shape, params["critic"].shape[-1]))
    return logp_BT, critic


def make_params(critics=0):
    table = np.random.default_rng(1).normal(size=(STEPS, VOCAB)).astype(np.float32)
    return {"table": jnp.asarray(table), "critic": jnp.zeros((STEPS, critics))}


def make_scored(params, rewards, condition) -> Scored:
    rows = PROMPTS * GROUP
    token = np.random.default_rng(2).integers(0, VOCAB, (rows, STEPS)).astype(np.int32)
    mask = np.arange(STEPS)[None, :] < np.random.default_rng(3).integers(1, STEPS + 1, rows)[:, None]
    one = np.ones((PROMPTS, 1), np.int32)
    prompts = PromptBatch(
        prompt_NL=one,
        prompt_mask_NL=one > 0,
        condition_NM=jnp.asarray(condition),
        context_NS=one,
        context_mask_NS=one > 0,
    )
    rollout = Rollout(prompts=prompts, completion_BT=token, mask_BT=mask, logp_BT=np.zeros((rows, STEPS), np.float32))
    rollout = dataclasses.replace(rollout, logp_BT=policy_fn(params, rollout)[0])
    return Scored(rollout=rollout, reward_BK=jnp.asarray(rewards, jnp.float32))


def run(method, params, scored, samples=None, **choices):
    optimizer = optax.sgd(0.1)
    update = make_update(method, policy_fn, optimizer, end_id=END, **choices)
    method_state = method.init() if samples is None else method.init(samples)
    state = init_state(params, optimizer, method_state, jax.random.key(0))
    return update(state, params, scored)


REWARDS = np.random.default_rng(4).uniform(size=(PROMPTS * GROUP, 2))
VISA = VisaConfig(reward_names=("a", "b"), reward_weights=(0.7, 0.3), num_generations=GROUP)
PREFERENCES = ((0.25, 0.75), (0.5, 0.5), (1.0, 0.0), (0.25, 0.75))
MOC = MocConfig(reward_names=("a", "b"), preferences=PREFERENCES, num_generations=GROUP)


def test_first_visa_step_has_loss_zero_and_the_policy_gradient():
    """Ratio 1 and advantages that sum to 0 in each group: the GRPO loss is 0, its step is not (losses, last line)."""
    params = make_params()
    state, metrics = run(make_visa(VISA), params, make_scored(params, REWARDS, np.zeros((PROMPTS, 10))))
    assert abs(float(metrics["loss"])) < 1e-6
    assert float(metrics["grad_norm"]) > 1e-3 and float(metrics["kl"]) == 0
    assert int(state.step) == 1 and not np.allclose(state.params["table"], params["table"])


def test_gradient_is_that_of_the_advantage_weighted_log_probability():
    """At ratio 1 and KL 0 the gradient of the loss is -mean_rows mean_tokens A grad log p, by finite differences."""
    params = make_params()
    scored = make_scored(params, REWARDS, np.zeros((PROMPTS, 10)))
    state, _ = run(make_visa(VISA), params, scored)
    step = (np.asarray(params["table"]) - np.asarray(state.params["table"])) / 0.1
    total = REWARDS @ np.array([0.7, 0.3])
    grouped = total.reshape(PROMPTS, GROUP)
    adv = ((grouped - grouped.mean(1, keepdims=True)) / (grouped.std(1, ddof=1, keepdims=True) + 1e-4)).ravel()
    mask = scored.rollout.mask_BT

    def objective(table):
        logp = np.asarray(policy_fn({"table": jnp.asarray(table), "critic": params["critic"]}, scored.rollout)[0])
        return -np.mean((logp * mask).sum(1) / mask.sum(1) * adv)

    table = np.asarray(params["table"], np.float64)
    for place in ((0, 1), (2, 3)):
        nudge = np.zeros_like(table)
        nudge[place] = 1e-2
        slope = (objective(table + nudge) - objective(table - nudge)) / 2e-2
        np.testing.assert_allclose(step[place], slope, atol=2e-4)


@pytest.mark.parametrize("epochs", [1, 2])
def test_minibatches_keep_groups_and_count_every_row(epochs):
    """With plain SGD, no clip and tiny steps, minibatches add up to epochs times the full step."""
    params = make_params(critics=3)
    scored = make_scored(params, REWARDS, np.asarray(PREFERENCES))
    tiny = optax.sgd(1e-5)
    tables = []
    for choices in ({"epochs": 1, "minibatches": 1}, {"epochs": epochs, "minibatches": 2}):
        method = make_moc(MOC)
        update = make_update(method, policy_fn, tiny, end_id=END, **choices)
        state = init_state(params, tiny, method.init(scored.reward_BK), jax.random.key(0))
        state, _ = update(state, params, scored)
        steps = choices["epochs"] * choices["minibatches"]
        tables.append((np.asarray(state.params["table"]) - np.asarray(params["table"])) / steps)
    counts = scored.rollout.mask_BT.reshape(2, -1).sum(1)
    assert counts[0] != counts[1]  # unequal halves: the mean of their means is not the mean, only near it
    np.testing.assert_allclose(tables[1], tables[0], rtol=0.5, atol=2e-7)


@pytest.mark.parametrize("name", ["visa", "moc"])
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_change_nothing(name, micro_batches):
    """Rows of unequal lengths in unequal pieces: sums are divided once, so the step and its metrics are the same."""
    method = make_visa(VISA) if name == "visa" else make_moc(MOC)
    params = make_params(critics=method.signals)
    condition = np.zeros((PROMPTS, 10)) if name == "visa" else np.asarray(PREFERENCES)
    scored = make_scored(params, REWARDS, condition)
    counts = scored.rollout.mask_BT.reshape(micro_batches, -1).sum(1)
    assert len(set(counts.tolist())) > 1
    samples = None if name == "visa" else scored.reward_BK
    whole, pieces = (run(method, params, scored, samples, micro_batches=count) for count in (1, micro_batches))
    for expected, got in zip(jax.tree.leaves(whole[0].params), jax.tree.leaves(pieces[0].params), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    assert whole[1].keys() == pieces[1].keys()
    for metric, expected in whole[1].items():
        np.testing.assert_allclose(pieces[1][metric], expected, rtol=1e-4, atol=1e-6, err_msg=metric)


def test_moc_update_reports_weights_that_sum_to_one():
    params = make_params(critics=3)
    scored = make_scored(params, REWARDS, np.asarray(PREFERENCES))
    _, metrics = run(make_moc(MOC), params, scored, scored.reward_BK)
    assert float(metrics["moo/weights/reward"] + metrics["moo/weights/control"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["visa", "moc"])
def test_second_call_compiles_nothing(name, compiles):
    method = make_visa(VISA) if name == "visa" else make_moc(MOC)
    params = make_params(critics=method.signals)
    condition = np.zeros((PROMPTS, 10)) if name == "visa" else np.asarray(PREFERENCES)
    scored = make_scored(params, REWARDS, condition)
    optimizer = optax.adam(1e-3)
    update = jax.jit(make_update(method, policy_fn, optimizer, end_id=END))
    method_state = method.init() if name == "visa" else method.init(scored.reward_BK)
    state = init_state(params, optimizer, method_state, jax.random.key(0))
    state, _ = update(state, params, scored)
    compiles.reset()
    update(state, params, scored)
    assert compiles.count == 0, compiles.names


def test_prompts_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="4 prompts do not divide into 3 minibatches"):
        split_rows({"x": jnp.zeros((8, 2))}, 4, 3)
