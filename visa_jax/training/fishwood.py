"""FishWood learned by MOC and its PPO baselines with a small network: the method, the losses and the update are
those of the language models, only policy and rollout are FishWood's own.

The journey of one step, all of it inside one ``lax.scan``:

1. N preferences are drawn by the method, and G days are lived under each (``data/testbed/fishwood.py``)
2. the day's fish and wood are the rewards of a row; its actions are the row's tokens                 -> Scored
3. ``training/update.py``: combine, loss, gradient, optimizer                                       -> TrainState
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import moocore
import numpy as np
import scipy.stats

from visa_jax.config import require
from visa_jax.data.testbed import fishwood
from visa_jax.estimators import QuantileNormalizer
from visa_jax.methods.base import Method
from visa_jax.methods.moc import MocConfig, make_method
from visa_jax.training.optimizer import OptimizerConfig, make_optimizer
from visa_jax.training.state import init_state
from visa_jax.training.update import make_update
from visa_jax.types import Array, Params, PromptBatch, Rollout, Scored, TrainState

EVALUATION_PREFERENCES = tuple((i / 10, 1 - i / 10) for i in range(11))
REFERENCE_POINT = (0.0, 0.0)  # of the hyper-volume, in scaled rewards


@dataclasses.dataclass(frozen=True)
class FishWoodConfig:
    """One FishWood run; all numbers [ours]."""

    moc: MocConfig
    method: str = "fishwood"
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=6e-3, decay="linear")
    idle: bool = False  # the variant with a third action that earns nothing
    steps: int = 300
    preferences_per_step: int = 16  # N; episodes a step are N * moc.num_generations
    epochs: int = 1
    minibatches: int = 1
    units: int = 32
    evaluation_episodes: int = 512  # for each of the eleven evaluation preferences
    progress_chunks: int = 20  # how often progress is told
    seed: int = 0

    def __post_init__(self):
        require(self.moc.reward_names == fishwood.OBJECTIVES, "moc.reward_names", "FishWood has fish and wood")
        require(len(self.moc.preferences) > 0, "moc.preferences", "there is nothing to train on")
        require(self.steps >= 1, "steps", "must be at least 1")
        require(self.progress_chunks >= 1, "progress_chunks", "must be at least 1")
        require(
            self.preferences_per_step >= 1 and self.preferences_per_step % self.minibatches == 0,
            "preferences_per_step",
            f"{self.preferences_per_step} preferences do not divide into {self.minibatches} minibatches",
        )
        require(self.units >= 1, "units", "must be at least 1")
        require(self.evaluation_episodes >= 1, "evaluation_episodes", "must be at least 1")


def run(config: FishWoodConfig, on_step: Callable[[int, dict[str, float]], None] | None = None) -> dict:
    """Train and evaluate one policy.

    Args:
      config: the run.
      on_step: called with (step, metrics averaged since the last call) about ``progress_chunks`` times.

    Returns:
      ``row``: tau, control_error, hypervolume (``judge``) and seconds, compilation included;
      ``points``: per evaluation preference its mean reward [fish, wood], raw and scaled to a full day;
      ``curve``: the metrics that ``on_step`` was given, each with its step.
    """
    began = time.perf_counter()
    method = make_method(config.moc)
    optimizer = make_optimizer(config.optimizer, config.steps * config.epochs * config.minibatches)
    state = start(config, method, optimizer)
    step_fn = make_step(config, method, optimizer)
    train = jax.jit(lambda state, length: jax.lax.scan(step_fn, state, length=length), static_argnums=1)
    curve, chunk = [], -(-config.steps // config.progress_chunks)
    for done in range(0, config.steps, chunk):
        length = min(chunk, config.steps - done)
        state, stacked = train(state, length)
        metrics = {name: float(np.mean(values)) for name, values in jax.device_get(stacked).items()}
        curve.append({"step": done + length, **metrics})
        if on_step is not None:
            on_step(done + length, metrics)
    preference_PK = np.asarray(EVALUATION_PREFERENCES, np.float32)
    evaluate_fn = jax.jit(partial(evaluate, episodes=config.evaluation_episodes))
    reward_PK = np.asarray(evaluate_fn(state.params, preference_PK, jax.random.fold_in(state.key, config.steps)))
    row = judge(preference_PK, reward_PK) | {"seconds": time.perf_counter() - began}
    return {"row": row, "points": _points(preference_PK, reward_PK), "curve": curve}


def start(config: FishWoodConfig, method: Method, optimizer) -> TrainState:
    """State at step 0. The reward scale is not fitted to samples: a full day is known."""
    param_key, run_key = jax.random.split(jax.random.key(config.seed))
    params = init_params(param_key, fishwood.place_count(config.idle), config.units, method.signals)
    method_state = dataclasses.replace(
        method.init(jnp.zeros((1, 2))),
        normalizer=QuantileNormalizer(low_K=jnp.zeros(2), high_K=jnp.asarray(fishwood.FULL_DAY)),
    )
    return init_state(params, optimizer, method_state, run_key)


def make_step(config: FishWoodConfig, method: Method, optimizer) -> Callable:
    """``step(state, None) -> (state, metrics)``: one batch of days and one update, for ``lax.scan``."""
    update = make_update(method, policy_fn, optimizer, end_id=-1, epochs=config.epochs, minibatches=config.minibatches)

    def step(state: TrainState, _):
        draw_key, live_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        preference_NK = method.condition(draw_key, jnp.zeros((config.preferences_per_step, 2)))
        scored = live(state.params, preference_NK, live_key, group_size=config.moc.num_generations)
        # the policy is its own reference: FishWood has nothing to stay close to
        return update(state, state.params, scored)

    return step


def init_params(key: Array, places: int, units: int, critics: int) -> Params:
    """Two hidden layers that read (place, preference), and heads for the next place and the critics."""
    widths = (places + 2, units, units, places + critics)
    params = {}
    for i, layer_key in enumerate(jax.random.split(key, 3)):
        last = 0.01 if i == 2 else 1.0  # start close to the uniform policy
        scale = last / np.sqrt(widths[i])
        params[f"layer_{i}"] = {
            "kernel": scale * jax.random.normal(layer_key, (widths[i], widths[i + 1])),
            "bias": jnp.zeros(widths[i + 1]),
        }
    return params


def apply_policy(params: Params, preference_NK: Array) -> tuple[Array, Array]:
    """The whole policy as tables: log-probabilities [N, S, S] of the next place at every place, critics [N, S, C].

    A policy that sees only place and preference is no more than this, so the network runs 2 or 3 times per
    preference instead of once per step of every day.
    """
    places = params["layer_0"]["kernel"].shape[0] - 2
    prompts = preference_NK.shape[0]
    place_NSS = jnp.broadcast_to(jnp.eye(places)[None], (prompts, places, places))
    preference_NSK = jnp.broadcast_to(preference_NK[:, None, :], (prompts, places, 2))
    hidden = jnp.concatenate([place_NSS, 2 * preference_NSK - 1], axis=-1)
    for name in ("layer_0", "layer_1"):
        hidden = jnp.tanh(_dense(params[name], hidden))
    output = _dense(params["layer_2"], hidden)
    return jax.nn.log_softmax(output[..., :places]), output[..., places:]


def _dense(layer: Params, x: Array) -> Array:
    return jnp.dot(x, layer["kernel"]) + layer["bias"][(None,) * (x.ndim - 1)]


def policy_fn(params: Params, rollout: Rollout) -> tuple[Array, Array]:
    """The forward pass that ``make_update`` asks for: log-probabilities [B, T] and critics [B, T, C]."""
    logp_NSS, critic_NSC = apply_policy(params, rollout.prompts.condition_NM)
    action_BT = rollout.completion_BT
    place_BT = fishwood.visited_places(action_BT)
    prompts, places = logp_NSS.shape[:2]
    days = action_BT.shape[0] // prompts
    step_NGT = (place_BT * places + action_BT).reshape(prompts, days, -1)
    one_hot = jax.nn.one_hot(step_NGT, places * places)
    logp_BT = jnp.einsum("ngtx,nx->ngt", one_hot, logp_NSS.reshape(prompts, -1)).reshape(action_BT.shape)
    place_NGTS = jax.nn.one_hot(place_BT, places).reshape(prompts, days, -1, places)
    critic_NGTC = jnp.einsum("ngts,nsc->ngtc", place_NGTS, critic_NSC)
    return logp_BT, critic_NGTC.reshape(*action_BT.shape, -1)


def live(params: Params, preference_NK: Array, key: Array, *, group_size: int) -> Scored:
    """G days under each preference, with what they bring in: raw fish and wood."""
    logp_NSS, _ = apply_policy(params, preference_NK)
    action_key, luck_key = jax.random.split(key)
    action_BT = fishwood.sample_actions(action_key, jnp.repeat(jnp.exp(logp_NSS), group_size, axis=0))
    prompts = preference_NK.shape[0]
    nothing_N1 = jnp.zeros((prompts, 1), jnp.int32)
    everything_BT = jnp.ones(action_BT.shape, bool)
    batch = PromptBatch(
        prompt_NL=nothing_N1 + fishwood.START,
        prompt_mask_NL=nothing_N1 == 0,
        condition_NM=preference_NK,
        context_NS=nothing_N1,
        context_mask_NS=nothing_N1 == 0,
    )
    rollout = Rollout(prompts=batch, completion_BT=action_BT, mask_BT=everything_BT, logp_BT=jnp.zeros(action_BT.shape))
    rollout = dataclasses.replace(rollout, logp_BT=policy_fn(params, rollout)[0])
    return Scored(rollout=rollout, reward_BK=fishwood.earn(luck_key, action_BT))


def evaluate(params: Params, preference_PK: Array, key: Array, *, episodes: int) -> Array:
    """Mean raw rewards [P, 2] of ``episodes`` sampled days under each preference."""
    reward_BK = live(params, jnp.asarray(preference_PK), key, group_size=episodes).reward_BK
    return jnp.mean(reward_BK.reshape(-1, episodes, 2), axis=1)


def judge(preference_PK: np.ndarray, reward_PK: np.ndarray) -> dict[str, float]:
    """tau, control error and hyper-volume of mean raw rewards [P, 2].

    * ``tau``: Kendall's tau-b between p_k and mean reward k, averaged over the objectives; 0 if one is constant
    * ``control_error``: mean over preferences of sum_k (scaled mean reward k - p_k)^2
    * ``hypervolume``: of the scaled mean rewards above (0, 0); points on the front at p give 0.45
    """
    scaled_PK = reward_PK / np.asarray(fishwood.FULL_DAY)
    taus = [_tau(preference_PK[:, k], reward_PK[:, k]) for k in range(2)]
    volume = moocore.hypervolume(np.asarray(scaled_PK, np.float64), ref=REFERENCE_POINT, maximise=True)
    return {
        "tau": float(np.mean(taus)),
        "control_error": float(np.mean(np.sum((scaled_PK - preference_PK) ** 2, axis=1))),
        "hypervolume": float(volume),
    }


def _tau(preference_P: np.ndarray, reward_P: np.ndarray) -> float:
    if np.ptp(reward_P) == 0:
        return 0.0
    return float(scipy.stats.kendalltau(preference_P, reward_P).statistic)


def _points(preference_PK: np.ndarray, reward_PK: np.ndarray) -> list[dict]:
    scaled_PK = reward_PK / np.asarray(fishwood.FULL_DAY)
    return [
        {"preference": p.tolist(), "reward": r.tolist(), "scaled": s.tolist()}
        for p, r, s in zip(preference_PK, reward_PK, scaled_PK, strict=True)
    ]
