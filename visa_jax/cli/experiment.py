"""Assembly of VISA and MOC runs from their configs: the one place that knows all parts.

``open_visa`` and ``open_moc`` open the supervised runs that a config names (``cli/configs.py``); ``make_visa`` and
``make_moc`` hand their functions and parameters down.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from visa_jax.cli.configs import MocTrainConfig, VisaTrainConfig
from visa_jax.cli.decoders import Policy, make_policy, open_decoder
from visa_jax.cli.rewards import make_texts_fn, open_moc_parts, open_visa_parts
from visa_jax.cli.sources import make_source
from visa_jax.config import require
from visa_jax.data.pool import Pool, make_moc_prompts_fn, make_visa_prompts_fn, moc_prompts, visa_prompts
from visa_jax.data.rows import prompt_batch
from visa_jax.data.source import Source
from visa_jax.data.symbols import plain_text
from visa_jax.data.template import condition_size
from visa_jax.data.tokenizer import pad_id
from visa_jax.estimators import QuantileNormalizer
from visa_jax.evaluation.run import Readers, make_sampler
from visa_jax.methods import moc as moc_method
from visa_jax.methods import visa as visa_method
from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.models.heads import make_critic
from visa_jax.models.placement import decoder_axes
from visa_jax.rewards import rules
from visa_jax.rewards.base import Reward, TextReward
from visa_jax.rewards.entailment import make_consistency
from visa_jax.rewards.reward_model import make_learned_reward
from visa_jax.rewards.value_match import make_value_match
from visa_jax.training.experiment import Experiment
from visa_jax.training.placement import lay_decoder, policy_axes
from visa_jax.training.policy import PolicyConfig, make_lora_join, make_policy_fn
from visa_jax.training.roles import stop_id
from visa_jax.training.update import JoinFn, whole
from visa_jax.types import LanguageModel, Params, PromptBatch

SOURCE_TEMPERATURE = 0.7  # at which the frozen base model answers (ours)
MOC_SAMPLE_BATCH = 256  # rows that judging samples at once: many preferences, each with every question


class VisaParts(NamedTuple):
    """Everything opened for a VISA run: what training, evaluation and the pipeline commands share."""

    config: VisaTrainConfig
    source: Source
    policy: Policy
    readers: Readers
    base: Params
    rewarders: tuple[Any, Any]  # detector and analyzer that reward: params, or functions of texts (cli/rewards.py)
    judges: tuple[Any, Any]  # detector and analyzer that only judge
    functions: dict[str, Any]
    text_rewards: dict[str, TextReward]
    notes: tuple[str, ...]  # what has no independent judge
    sample: Any  # evaluation/run.py:make_sampler, of the policy
    sample_base: Any  # the same of the base

    @property
    def lm(self) -> LanguageModel:
        """Functions of the policy's decoder."""
        return self.policy.lm

    @property
    def start(self) -> Params:
        """The policy before training: the KL reference."""
        return self.policy.frozen


class MocParts(NamedTuple):
    """Everything opened for a MOC run."""

    config: MocTrainConfig
    source: Source
    policy: Policy
    readers: Readers
    rewarders: tuple[Any, ...]
    judges: tuple[Any, ...]
    functions: dict[str, Any]
    text_rewards: dict[str, TextReward]
    notes: tuple[str, ...]
    sample: Any

    @property
    def start(self) -> Params:
        """The policy before training: the KL reference."""
        return self.policy.frozen


def open_visa(config: VisaTrainConfig, mesh: Mesh | None = None) -> VisaParts:
    """Open the runs that a VISA config names. UserError naming the field of the first that is missing.

    On a ``mesh`` the decoders are read into pieces and sample from them; what reads texts is whole, in each process:
    that of a run of ours on the host until it reads, for the first device is as full as the others.
    """
    source = make_source(config.data)
    sizes = dict(window=source.lengths.visa_prompt + source.lengths.text, mesh=mesh)
    policy = make_policy(  # in one expression: a base of int8 must not stay in memory as it was read
        open_decoder(config.runs.start, "config.runs.start", ("visa_sft",), source, config.policy, **sizes),
        config.policy,
        jax.random.key(config.seed),
        mesh=mesh,
    )
    if config.runs.base == config.runs.start:  # one copy for both
        base, base_lm, base_ends = policy.frozen, policy.lm, policy.end_ids
    else:
        sizes |= dict(trained=False)
        opened = open_decoder(config.runs.base, "config.runs.base", ("base",), source, config.policy, **sizes)
        base, base_ends = lay_decoder(config.policy.freeze(opened.params), opened.config, mesh), opened.end_ids
        base_lm = policy.lm if opened.config == policy.config else make_decoder(opened.config)[0]
    drawn = dict(max_new_tokens=source.lengths.text, mesh=mesh)
    sample = make_sampler(policy.lm, source, **drawn, end_id=policy.end_ids, axes_fn=_axes_fn(policy.config))
    same = base_lm is policy.lm and base_ends == policy.end_ids  # one program for both
    return VisaParts(
        config=config,
        source=source,
        policy=policy,
        base=base,
        sample=sample,
        sample_base=sample
        if same
        else make_sampler(base_lm, source, **drawn, end_id=base_ends, axes_fn=_axes_fn(opened.config)),
        **open_visa_parts(config, source, on_host=mesh is not None)._asdict(),
    )


def _axes_fn(config: DecoderConfig) -> Callable[[Params], Params]:
    return functools.partial(decoder_axes, config=config)


def answer_questions(parts: VisaParts, questions: list[str], key: jax.Array) -> list[str]:
    """The frozen base model's answers."""
    lengths = parts.source.lengths
    prompts = prompt_batch(
        parts.source.tokenizer,
        [parts.source.template.answer(question) for question in questions],
        np.zeros((len(questions), 1)),
        [""] * len(questions),
        prompt_length=lengths.visa_prompt,
        context_length=1,
    )
    return parts.sample_base(parts.base, prompts, key, SOURCE_TEMPERATURE).texts


def fits(source: Source, text: str) -> bool:
    """Whether a text can be asked to be rewritten: not empty, and short enough when it is read as plain text."""
    ids = source.tokenizer(plain_text(text), add_special_tokens=False)["input_ids"]
    return 0 < len(ids) <= source.lengths.text


def make_pool(parts: VisaParts, rows: int, split: str, base_share: float, seed: int) -> Pool:
    """Questions with source answers and what the reward detector reads in them."""
    drawn = parts.source.sources(rows, seed, split)
    questions, answers = [q for q, _ in drawn], [a for _, a in drawn]
    count = round(base_share * rows)
    if count:
        said = answer_questions(parts, questions[:count], jax.random.fold_in(jax.random.key(seed), 1))
        # where the base model says nothing, or babbles in special tokens, the source's own text stays
        answers[:count] = [new if fits(parts.source, new) else old for new, old in zip(said, answers, strict=False)]
    return Pool(questions=questions, answers=answers, value_PM=parts.readers.values(parts.rewarders[0], answers))


class VisaSet(NamedTuple):
    """Fixed rows to judge: a pool and the targets asked for."""

    pool: Pool
    target_NM: np.ndarray
    prompts: PromptBatch


def make_visa_set(parts: VisaParts, rows: int, split: str, base_share: float, seed: int) -> VisaSet:
    """Rows with targets drawn as in training: clip(D(y_orig) + shift).

    A run that trains on the source's own texts alone (``pool_base_share`` 0) is judged on them alone.
    """
    pool = make_pool(parts, rows, split, base_share if parts.config.pool_base_share else 0.0, seed)
    method = visa_method.make_method(parts.config.visa)
    target_NM = np.asarray(jax.jit(method.condition)(jax.random.key(seed + 17), pool.value_PM))
    return VisaSet(pool, target_NM, visa_prompts(parts.source, pool, np.arange(rows), target_NM))


def visa_rewards(parts: VisaParts) -> tuple[Reward | TextReward, ...]:
    """The rewards that the config names, in its order; UserError for one that there is not."""
    config, end = parts.config, {"end_id": parts.policy.end_ids}
    detect = parts.functions["detector"]
    scores = {
        "value": (
            make_value_match(lambda p, t, m: detect(p, t, m).value_BM, kind=config.value_reward, **end),
            parts.rewarders[0],
        ),
        "consistency": (make_consistency(parts.functions["entailment"], **end), parts.rewarders[1]),
        "format": (rules.make_format(stop_id=stop_id(parts.source), **end), ()),
        "length": (rules.make_length(**end), ()),
    }
    known = {name: Reward(name, *score) for name, score in scores.items()} | parts.text_rewards
    for name in config.visa.reward_names:
        require(name in known, "config.visa.reward_names", f"{name!r} is not one of {', '.join(known)}")
    return tuple(known[name] for name in config.visa.reward_names)


class Started(NamedTuple):
    """A run before its first step."""

    experiment: Experiment
    params: Params  # what is trained
    reference: Params  # of the KL term; with adapters their base
    method_state: Any


def make_join(config: PolicyConfig) -> JoinFn:
    """How the update joins what is trained with the reference's parameters."""
    return make_lora_join(config.lora) if config.lora else whole


def make_visa(parts: VisaParts) -> Started:
    """A VISA run at its start."""
    config, source, tokenizer = parts.config, parts.source, parts.source.tokenizer
    method = visa_method.make_method(config.visa)
    pool = make_pool(parts, config.pool, "train", config.pool_base_share, config.seed)
    experiment = Experiment(
        method=method,
        lm=parts.lm,
        policy_fn=make_policy_fn(parts.lm, temperature=config.loop.temperature, chunk=config.policy.logp_chunk or None),
        rewards=visa_rewards(parts),
        prompts_fn=make_visa_prompts_fn(
            source, pool, jax.jit(method.condition), config.loop.prompts_per_step, jax.random.key_data
        ),
        group_size=config.visa.num_generations,
        max_new_tokens=source.lengths.text,
        end_id=parts.policy.end_ids,
        pad_id=pad_id(tokenizer),
        texts_fn=make_texts_fn(tokenizer, parts.policy.end_ids),
        join_fn=make_join(config.policy),
        axes_fn=functools.partial(policy_axes, config=parts.policy.config),
    )
    return Started(experiment, {"decoder": parts.policy.trained}, {"decoder": parts.policy.frozen}, method.init())


def open_moc(config: MocTrainConfig, mesh: Mesh | None = None) -> MocParts:
    """Open the runs that a MOC config names. UserError and ``mesh`` as in ``open_visa``."""
    source, encoding = make_source(config.data), config.preference_encoding
    sizes = dict(window=source.lengths.moc_prompt + source.lengths.answer, mesh=mesh)
    start = open_decoder(config.runs.start, "config.runs.start", ("moc_sft",), source, config.policy, **sizes)
    require(
        start.role is None or start.role.preference_encoding == encoding,
        "config.preference_encoding",
        f"is {encoding!r}, but {config.runs.start} was trained with {start.role and start.role.preference_encoding!r}",
    )
    condition = condition_size(encoding, len(config.moc.reward_names))
    policy = make_policy(start, config.policy, jax.random.key(config.seed), condition, mesh)
    return MocParts(
        config=config,
        source=source,
        policy=policy,
        sample=make_sampler(
            policy.lm,
            source,
            max_new_tokens=source.lengths.answer,
            end_id=policy.end_ids,
            batch_size=MOC_SAMPLE_BATCH,
            mesh=mesh,
            axes_fn=_axes_fn(policy.config),
        ),
        **open_moc_parts(config, source, on_host=mesh is not None)._asdict(),
    )


def learned_rewards(parts: MocParts, models: tuple[Any, ...], questions: list[str], answers: list[str]) -> np.ndarray:
    """[n, K] by the given reward models."""
    return np.stack([parts.readers.reward(params, questions, answers) for params in models], axis=1)


def make_moc(parts: MocParts, normalizer: QuantileNormalizer | None = None) -> Started:
    """A MOC run at its start; the reward scale is frozen on the start policy. A critic is trained as a whole.

    ``normalizer``: the scale of a run that goes on; None samples it.
    """
    config, source, tokenizer = parts.config, parts.source, parts.source.tokenizer
    method = moc_method.make_method(config.moc)
    questions = source.questions(config.questions, config.seed, "train")
    score = make_learned_reward(parts.functions["reward_model"], end_id=parts.policy.end_ids)
    critic_fn, critic = None, {}
    if method.signals:
        critic_fn, init_critic = make_critic(parts.policy.config.width, method.signals)
        critic = {"critic": init_critic(jax.random.key(config.seed))}
    experiment = Experiment(
        method=method,
        lm=parts.policy.lm,
        policy_fn=make_policy_fn(
            parts.policy.lm,
            temperature=config.loop.temperature,
            critic_fn=critic_fn,
            chunk=config.policy.logp_chunk or None,
        ),
        rewards=tuple(
            parts.text_rewards.get(name) or Reward(name, score, params)
            for name, params in zip(config.moc.reward_names, parts.rewarders, strict=True)
        ),
        prompts_fn=make_moc_prompts_fn(
            source,
            questions,
            jax.jit(method.condition),
            config.loop.prompts_per_step,
            jax.random.key_data,
            config.preference_encoding,
        ),
        group_size=config.moc.num_generations,
        max_new_tokens=source.lengths.answer,
        end_id=parts.policy.end_ids,
        pad_id=pad_id(tokenizer),
        texts_fn=make_texts_fn(tokenizer, parts.policy.end_ids),
        join_fn=make_join(config.policy),
        axes_fn=functools.partial(policy_axes, config=parts.policy.config),
    )
    trained, reference = ({"decoder": params} | critic for params in (parts.policy.trained, parts.policy.frozen))
    if normalizer is None:
        method_state = method.init(jnp.asarray(scale_samples(parts, questions)))
    else:
        ends = np.stack([normalizer.low_K, normalizer.high_K])
        method_state = dataclasses.replace(method.init(jnp.asarray(ends)), normalizer=normalizer)
    return Started(experiment, trained, reference, method_state)


def scale_samples(parts: MocParts, questions: list[str]) -> np.ndarray:
    """Learned rewards [S, K] of completions of the start policy under random preferences."""
    config = parts.config
    rng = np.random.default_rng(config.seed)
    count = config.normalizer_samples
    asked = [questions[i] for i in rng.integers(len(questions), size=count)]
    preference_NK = np.asarray(config.moc.preferences, np.float32)[
        rng.integers(len(config.moc.preferences), size=count)
    ]
    prompts = moc_prompts(parts.source, asked, preference_NK, config.preference_encoding)
    said = parts.sample(parts.start, prompts, jax.random.key(config.seed), config.loop.temperature).texts
    return learned_rewards(parts, parts.rewarders, asked, said)
