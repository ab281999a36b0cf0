"""The programs of a run before there are weights, texts or devices: the run's own functions, on shapes.

``experiment.py`` opens what a config names; this takes sizes from ``config.plan`` instead. Everything after that is
the run's: its method, policy, rewards and the programs of ``training/meshed.py``.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from visa_jax.cli.configs import MocTrainConfig, VisaTrainConfig
from visa_jax.cli.experiment import make_join
from visa_jax.cli.rewards import is_huggingface
from visa_jax.config import UserError, require
from visa_jax.data.template import condition_size
from visa_jax.methods import moc as moc_method
from visa_jax.methods import visa as visa_method
from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.models.heads import make_critic
from visa_jax.models.hf import read_decoder_config
from visa_jax.models.hub import local_directory
from visa_jax.models.readers import hold, make_analyzer, make_detector, make_reward_reader
from visa_jax.planning.programs import Program, device_bytes
from visa_jax.rewards import rules
from visa_jax.rewards.base import Reward
from visa_jax.rewards.entailment import make_consistency, make_entailment
from visa_jax.rewards.reward_model import make_learned_reward
from visa_jax.rewards.value_match import make_value_match
from visa_jax.training.experiment import Experiment
from visa_jax.training.meshed import make_meshed
from visa_jax.training.placement import policy_axes
from visa_jax.training.policy import make_policy_fn
from visa_jax.training.programs import run_optimizer
from visa_jax.training.state import state_shapes
from visa_jax.types import VALUES, PromptBatch

PAD_ID, END_ID, STOP_ID = 0, 1, 2  # which tokens these are does not change a program's cost

TrainConfig = VisaTrainConfig | MocTrainConfig


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """A run on shapes."""

    config: TrainConfig
    decoder: DecoderConfig  # of the policy, as it is computed
    experiment: Experiment
    trained: Any  # shapes
    reference: Any
    method_state: Any


def policy_decoder(config: TrainConfig) -> DecoderConfig:
    """The policy's decoder, from the page or from the config.json of the model that it starts from."""
    plan, decoder = config.plan, config.plan.decoder
    if decoder is None:
        named = "config.plan.decoder: is missing, and config.runs.start"
        start = local_directory(config.runs.start, named, weights=False)
        if not is_huggingface(start):
            raise UserError(f"{named}={start} is no Hugging Face directory")
        decoder = read_decoder_config(start)
    condition = 0
    if isinstance(config, MocTrainConfig):
        condition = condition_size(config.preference_encoding, len(config.moc.reward_names))
    window = plan.prompt_length + plan.completion_length
    require(decoder.max_length >= window, "config.plan.decoder.max_length", f"{decoder.max_length} < {window} tokens")
    return config.policy.computed(dataclasses.replace(decoder, condition=condition))


def draw(config: TrainConfig, platform: str) -> Blueprint:
    """The run of ``config`` on shapes, its attention as ``platform`` (cpu, tpu) computes it."""
    policy, plan, decoder = config.policy, config.plan, policy_decoder(config)
    lm, init_decoder = make_decoder(decoder, platform)
    is_visa, key = isinstance(config, VisaTrainConfig), jax.eval_shape(lambda: jax.random.key(0))

    def make_frozen(key):
        start = jax.tree.map(lambda leaf: leaf.astype(policy.frozen_dtype), init_decoder(key))
        return policy.freeze(start) if policy.lora else start

    frozen = jax.eval_shape(make_frozen, key)
    trained = jax.eval_shape(policy.adapters, key, frozen) if policy.lora else frozen
    method, rewards = (_visa if is_visa else _moc)(config, platform)
    critic_fn, critic = None, {}
    if method.signals:
        critic_fn, init_critic = make_critic(decoder.width, method.signals)
        critic = {"critic": jax.eval_shape(init_critic, key)}
    sample = () if is_visa else (jax.ShapeDtypeStruct((config.normalizer_samples, len(rewards)), jnp.float32),)
    experiment = Experiment(
        method=method,
        lm=lm,
        policy_fn=make_policy_fn(
            lm, temperature=config.loop.temperature, critic_fn=critic_fn, chunk=policy.logp_chunk or None
        ),
        rewards=rewards,
        prompts_fn=lambda *_: prompt_shapes(config),
        group_size=(config.visa if is_visa else config.moc).num_generations,
        max_new_tokens=plan.completion_length,
        end_id=END_ID,
        pad_id=PAD_ID,
        join_fn=make_join(policy),
        axes_fn=functools.partial(policy_axes, config=decoder),
    )
    return Blueprint(
        config=config,
        decoder=decoder,
        experiment=experiment,
        trained={"decoder": trained} | critic,
        reference={"decoder": frozen} | critic,
        method_state=jax.eval_shape(method.init, *sample),
    )


def programs(run: Blueprint, mesh: Mesh) -> dict[str, Program]:
    """The programs of a step on ``mesh``, with the shapes that they are called with: rollout, score, update.

    Each knows what lies on the devices while it runs: the whole state, the reference, VISA's base, reward
    models.

    Raises:
      FieldError: sizes that do not divide into the mesh, with both numbers.
    """
    # all completions are as long as they may be: the branches for shorter ones would only take time to compile
    loop, experiment = dataclasses.replace(run.config.loop, length_buckets=1), run.experiment
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = state_shapes(run.trained, run_optimizer(loop), run.method_state, key)
    made = make_meshed(experiment, loop, state, mesh)
    state, reference = made.put_state(state), made.put_params(run.reference)
    rewards = made.put_rewards(tuple(reward.params for reward in experiment.rewards))
    prompts = made.put_prompts(prompt_shapes(run.config))
    rollout_args = (state.params, reference, prompts, state.key)
    rollout = jax.eval_shape(made.rollout, *rollout_args)
    rollout = made.put_prompts(rollout)  # rows lie as prompts do
    scored = made.put_prompts(jax.eval_shape(made.score, rewards, rollout))
    held = device_bytes((state, reference, rewards))
    if isinstance(run.config, VisaTrainConfig) and run.config.runs.base != run.config.runs.start:
        held += device_bytes(reference)  # the frozen model that answers, of the policy's sizes
    found = {"rollout": Program(made.rollout, rollout_args, held + device_bytes(prompts))}
    if any(jax.tree.leaves(reward.params) for reward in experiment.rewards):
        found["score"] = Program(made.score, (rewards, rollout), held + device_bytes(rollout))
    return found | {"update": Program(made.update, (state, reference, scored), held + device_bytes(scored))}


def prompt_shapes(config: TrainConfig) -> PromptBatch:
    """The prompts of a step."""
    of, plan, rows = jax.ShapeDtypeStruct, config.plan, config.loop.prompts_per_step
    entries = len(VALUES) if isinstance(config, VisaTrainConfig) else len(config.moc.reward_names)
    return PromptBatch(
        prompt_NL=of((rows, plan.prompt_length), jnp.int32),
        prompt_mask_NL=of((rows, plan.prompt_length), bool),
        condition_NM=of((rows, entries), jnp.float32),
        context_NS=of((rows, plan.context_length), jnp.int32),
        context_mask_NS=of((rows, plan.context_length), bool),
    )


def _visa(config: VisaTrainConfig, platform: str):
    """(method, rewards); without a reader's sizes the learned rewards have no parameters and cost nothing."""
    names, end = config.visa.reward_names, {"end_id": END_ID}
    scores = {"format": (rules.make_format(stop_id=STOP_ID, **end), ()), "length": (rules.make_length(**end), ())}
    if config.plan.reader is not None:
        # a reader of texts sees both sides of a token
        trunk = dataclasses.replace(config.plan.reader, causal=False)
        lm, init_trunk = make_decoder(trunk, platform)
        detect, init_detector = make_detector(lm, len(VALUES))
        encode, compare, init_analyzer = make_analyzer(lm, stop_id=STOP_ID)
        match = make_value_match(lambda p, t, m: detect(p, t, m).value_BM, kind=config.value_reward, **end)
        consistency = make_consistency(make_entailment(encode, compare, stop_id=STOP_ID), **end)
        scores["value"] = (match, _reader_shapes(init_trunk, init_detector, trunk, config.loop.reward_dtype))
        scores["consistency"] = (
            consistency,
            _reader_shapes(init_trunk, init_analyzer, trunk, config.loop.reward_dtype),
        )
    nothing = (rules.make_length(**end), ())
    return visa_method.make_method(config.visa), tuple(Reward(name, *scores.get(name, nothing)) for name in names)


def _moc(config: MocTrainConfig, platform: str):
    names, score, params = config.moc.reward_names, rules.make_length(end_id=END_ID), ()
    if config.plan.reader is not None:
        lm, init_trunk = make_decoder(config.plan.reader, platform)
        read, init_head = make_reward_reader(lm)
        score = make_learned_reward(read, end_id=END_ID)
        params = _reader_shapes(init_trunk, init_head, config.plan.reader, config.loop.reward_dtype)
    return moc_method.make_method(config.moc), tuple(Reward(name, score, params) for name in names)


def _reader_shapes(init_trunk, init_head, trunk: DecoderConfig, dtype: str):
    def make(key):
        return hold({"decoder": init_trunk(key), "head": init_head(key, trunk.width)}, dtype)

    return jax.eval_shape(make, jax.random.key(0))
