"""FishWood's policy against loops, its judge against evaluation/, and one short training that must learn control."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.cli.flags import UsageError, load_config_file
from visa_jax.config import FieldError, from_config_dict
from visa_jax.data.testbed.fishwood import FULL_DAY
from visa_jax.evaluation import hypervolume, kendall_tau
from visa_jax.evaluation.control import control_error
from visa_jax.methods.baselines import MOC_BASELINES
from visa_jax.methods.moc import MocConfig, make_method
from visa_jax.training import fishwood
from visa_jax.training.fishwood import EVALUATION_PREFERENCES, FishWoodConfig
from visa_jax.training.optimizer import OptimizerConfig, make_optimizer

GRID = tuple((i / 10, 1 - i / 10) for i in range(11))


def make_config(moc=None, **changes) -> FishWoodConfig:
    moc = {"reward_names": ("fish", "wood"), "preferences": GRID, "advantage": "group", "kl_initial": 0.0} | (moc or {})
    return FishWoodConfig(moc=MocConfig(**({"num_generations": 16} | moc)), **changes)


@pytest.fixture(scope="module")
def short_run():
    """MOC for 150 steps, a few seconds, and what it told on the way."""
    told = []
    config = make_config(steps=150, progress_chunks=3, optimizer=OptimizerConfig(learning_rate=1e-2, decay="linear"))
    return fishwood.run(config, on_step=lambda step, metrics: told.append((step, metrics))), told


def test_moc_learns_to_follow_the_preference(short_run):
    result, _ = short_run
    assert result["row"]["tau"] >= 0.95
    assert result["row"]["control_error"] <= 0.01  # the uniform policy that it starts from has 0.1
    assert 0.40 < result["row"]["hypervolume"] < 0.50


def test_rows_agree_with_points_and_with_the_measures_of_evaluation(short_run):
    row, points = short_run[0]["row"], short_run[0]["points"]
    preference, reward, scaled = (np.array([p[name] for p in points]) for name in ("preference", "reward", "scaled"))
    np.testing.assert_allclose(preference, EVALUATION_PREFERENCES, atol=1e-6)
    np.testing.assert_allclose(scaled, reward / [20, 180], rtol=1e-5)
    np.testing.assert_allclose(row["tau"], kendall_tau(preference, reward), atol=1e-9)
    np.testing.assert_allclose(row["hypervolume"], hypervolume(scaled, (0, 0)), rtol=1e-6)
    np.testing.assert_allclose(row["control_error"], control_error(scaled, preference), rtol=1e-5)
    # every policy earns fish/20 + wood/180 = 1 in expectation; the deviation of 512 episodes is below 0.01
    np.testing.assert_allclose(scaled.sum(1), 1.0, atol=0.04)


def test_progress_is_told_at_every_chunk_and_kept_as_the_curve(short_run):
    result, told = short_run
    assert [step for step, _ in told] == [50, 100, 150] == [record["step"] for record in result["curve"]]
    for (_, metrics), record in zip(told, result["curve"], strict=True):
        assert record == {"step": record["step"], **metrics}
    errors = [record["control/error"] for record in result["curve"]]
    assert errors[-1] < 0.7 * errors[0]  # of single episodes, whose luck alone makes 0.012


def test_judge_by_hand():
    preference = np.array(GRID)
    perfect = fishwood.judge(preference, preference * FULL_DAY)
    # eleven points (i/10, 1 - i/10): a staircase of width 0.1 and heights 0.9, 0.8, ..., 0
    assert perfect["tau"] == pytest.approx(1) and perfect["control_error"] == pytest.approx(0)
    assert perfect["hypervolume"] == pytest.approx(0.1 * sum(i / 10 for i in range(10)))
    constant = fishwood.judge(preference, np.full((11, 2), 0.5) * FULL_DAY)
    assert constant["tau"] == 0 and constant["hypervolume"] == pytest.approx(0.25)
    # d^2 + d^2 with d = p - 1/2, averaged over p = 0, 0.1, ..., 1
    assert constant["control_error"] == pytest.approx(np.mean(2 * (np.arange(11) / 10 - 0.5) ** 2))
    assert fishwood.judge(preference, preference[::-1] * FULL_DAY)["tau"] == pytest.approx(-1)


@pytest.mark.parametrize("places", [2, 3])
def test_policy_fn_is_the_table_looked_up_step_by_step(places):
    params = fishwood.init_params(jax.random.key(0), places, 8, critics=3)
    params = jax.tree.map(lambda x: x + 0.5 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    preference_NK = jnp.array([[0.1, 0.9], [0.7, 0.3]])
    rollout = fishwood.live(params, preference_NK, jax.random.key(1), group_size=3).rollout
    logp_BT, critic_BTC = (np.asarray(x) for x in fishwood.policy_fn(params, rollout))
    logp_NSS, critic_NSC = (np.asarray(x) for x in fishwood.apply_policy(params, preference_NK))
    np.testing.assert_allclose(np.exp(logp_NSS).sum(-1), 1.0, rtol=1e-5)
    for b, actions in enumerate(np.asarray(rollout.completion_BT)):
        place = 1  # every day begins in the wood
        for t, action in enumerate(actions[:20]):
            np.testing.assert_allclose(logp_BT[b, t], logp_NSS[b // 3, place, action], atol=1e-5)
            np.testing.assert_allclose(critic_BTC[b, t], critic_NSC[b // 3, place], atol=1e-5)
            place = action
    np.testing.assert_allclose(rollout.logp_BT, logp_BT, atol=1e-6)


def test_rows_of_a_group_live_under_their_own_preference():
    # one linear path through the network: the logits are (20 p_fish - 10) for fish and 0 for wood, at every place
    params = jax.tree.map(jnp.zeros_like, fishwood.init_params(jax.random.key(0), 2, 4, critics=0))
    params["layer_0"]["kernel"] = params["layer_0"]["kernel"].at[2, 0].set(1.0)
    params["layer_1"]["kernel"] = params["layer_1"]["kernel"].at[0, 0].set(1.0)
    params["layer_2"]["kernel"] = params["layer_2"]["kernel"].at[0, 0].set(20.0)
    scored = fishwood.live(params, jnp.array([[1.0, 0.0], [0.0, 1.0]]), jax.random.key(0), group_size=5)
    fish_B, wood_B = np.asarray(scored.reward_BK).T
    assert np.all(fish_B[:5] > 5) and np.all(wood_B[:5] <= 1)
    assert np.all(fish_B[5:] == 0) and np.all(wood_B[5:] > 150)


def test_training_is_the_same_in_one_scan_or_step_by_step():
    config = make_config(moc={"num_generations": 4}, steps=4, preferences_per_step=4, idle=True)
    method, optimizer = make_method(config.moc), make_optimizer(config.optimizer, config.steps)
    step = fishwood.make_step(config, method, optimizer)
    scanned, _ = jax.jit(lambda state: jax.lax.scan(step, state, length=4))(fishwood.start(config, method, optimizer))
    single, walked = jax.jit(lambda state: step(state, None)[0]), fishwood.start(config, method, optimizer)
    for _ in range(4):
        walked = single(walked)
    assert int(scanned.step) == int(walked.step) == 4
    before = fishwood.start(config, method, optimizer).params["layer_2"]["kernel"]
    assert np.abs(np.asarray(scanned.params["layer_2"]["kernel"] - before)).max() > 1e-3
    for one, other in zip(jax.tree.leaves(scanned.params), jax.tree.leaves(walked.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_reward_scale_is_a_full_day():
    config = make_config()
    state = fishwood.start(config, make_method(config.moc), make_optimizer(config.optimizer, 1))
    np.testing.assert_allclose(state.method_state.normalizer.low_K, [0, 0])
    np.testing.assert_allclose(state.method_state.normalizer.high_K, [20, 180])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"moc": {"reward_names": ("a", "b")}}, "moc.reward_names"),
        ({"moc": {"preferences": ()}}, "moc.preferences"),
        ({"steps": 0}, "steps"),
        ({"preferences_per_step": 3, "minibatches": 2}, "preferences_per_step"),
        ({"evaluation_episodes": 0}, "evaluation_episodes"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, field):
    with pytest.raises(FieldError, match=field):
        make_config(**changes)


needs_page = pytest.mark.skipif(
    importlib.util.find_spec("visa_jax_configs") is None, reason="visa_jax is not installed here"
)


@needs_page
@pytest.mark.parametrize("row", [None, *MOC_BASELINES])
def test_page_makes_moc_and_its_baselines(root, row):
    page = load_config_file(f"{root / 'configs' / 'fishwood.py'}:idle,seed=3{f',{row}' if row else ''}")
    config = from_config_dict(FishWoodConfig, page)
    assert config.idle and config.seed == 3
    plain = from_config_dict(FishWoodConfig, load_config_file(str(root / "configs" / "fishwood.py")))
    # a row differs from MOC in what the table of baselines says, and in nothing else
    assert config.moc == dataclasses.replace(plain.moc, **MOC_BASELINES.get(row, {}))
    assert config == dataclasses.replace(plain, idle=True, seed=3, moc=config.moc)


@needs_page
def test_page_refuses_two_baselines_at_once(root):
    with pytest.raises(UsageError, match="linear_ppo and fixed_half: one at a time"):
        load_config_file(f"{root / 'configs' / 'fishwood.py'}:linear_ppo,fixed_half")
