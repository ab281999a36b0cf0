"""The supervised roles: which rows each learns from, which loss, and what it starts from.

``base`` is the frozen language model; ``detector``, ``translator`` and ``analyzer`` are VISA's parts; ``reward_model``
is MOC's; ``visa_sft`` and ``moc_sft`` are policies before RL. Each takes a ``Source`` and never asks which one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.config import UserError, require
from visa_jax.data.rows import Rows, document_rows, entailment_rows, pair_rows, text_rows
from visa_jax.data.source import TWIN_SEED, Source
from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.models.readers import make_analyzer, make_detector, make_reward_reader
from visa_jax.models.words import make_word_detector, solve_word_detector
from visa_jax.training import tasks
from visa_jax.training.placement import ONE_DEVICE, Layout
from visa_jax.training.supervised import FitConfig, Task, row_batches, twin_batches
from visa_jax.types import VALUES, LanguageModel, Params


@dataclasses.dataclass(frozen=True)
class TrunkConfig:
    """Sizes of a small decoder; vocabulary and window come from the tokenizer and the source's lengths."""

    width: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    mlp_width: int = 384
    causal: bool = True
    tie_embeddings: bool = False
    sentences_apart: bool = False  # readers only: a token sees its own sentence, which ends with "."
    attention: str = "auto"  # what computes it, see ``models.attention``


@dataclasses.dataclass(frozen=True)
class RoleConfig:
    """One supervised run."""

    role: str
    rows: int = 20_000
    seed: int = 0
    twins: int = 0  # 2: the second one is the held-out judge, with another seed and other data
    objective: int = 0  # reward_model: which column of the labels
    preference_encoding: str = "text"  # moc_sft
    preferences: tuple[tuple[float, ...], ...] = ()  # moc_sft: drawn at random, so that the prompt form is known
    ridge: float = 0.0  # detector: > 0 = linear in its words (models/words.py), solved at once; trunk, fit do nothing
    trunk: TrunkConfig = TrunkConfig()
    fit: FitConfig = FitConfig()

    def __post_init__(self):
        require(self.role in ROLES, "role", f"{self.role!r} is not one of {', '.join(ROLES)}")
        require(self.rows >= self.fit.batch_size, "rows", f"{self.rows} rows are fewer than one batch")
        require(self.twins in (0, 2), "twins", "is 0 (one model) or 2 (a model and its held-out judge)")
        require(self.ridge >= 0, "ridge", "must be >= 0")
        require(self.ridge == 0 or self.role == "detector", "ridge", f"is for detectors, not for {self.role!r}")


class RoleSpec(NamedTuple):
    """What a role is made of."""

    rows: Callable[[Source, RoleConfig, int, str], Rows]  # (source, config, seed, split) -> arrays
    model: Callable[[LanguageModel, Source], "RoleModel"]


class RoleModel(NamedTuple):
    """What a role trains: its loss, and its head on the trunk (None = a language model, the decoder alone)."""

    loss: Callable
    init_head: Callable | None


def decoder_config(source: Source, trunk: TrunkConfig, condition: int = 0) -> DecoderConfig:
    """The decoder of a trunk over the source's vocabulary, with room for its longest prompt and completion.

    ``condition`` is the size of a vector that it reads beside its prompt (MOC's preference as a prefix).
    """
    lengths, choices = source.lengths, dataclasses.asdict(trunk)
    choices["segment_end"] = stop_id(source) if choices.pop("sentences_apart") else None
    window = max(lengths.visa_prompt + lengths.text, lengths.moc_prompt + lengths.answer, lengths.document)
    return DecoderConfig(
        vocab_size=len(source.tokenizer), max_length=window + 2, scan_layers=False, condition=condition, **choices
    )


def make_task(
    config: RoleConfig, source: Source, base: Params | None = None, decoder: DecoderConfig | None = None
) -> Task:
    """The task of a role. With ``base`` (trunk parameters) it starts from there, else from nothing.

    ``decoder``: what a language model is, where it is not the config's trunk.
    """
    spec = ROLES[config.role]
    lm, init_decoder = make_decoder(decoder or decoder_config(source, config.trunk))
    model = spec.model(lm, source)
    seeds, size = role_seeds(config), config.fit.batch_size
    each = [row_batches(spec.rows(source, config, seed, "train"), size, seed) for seed in seeds]

    def init(key: jax.Array) -> Params:
        decoder = init_decoder(key) if base is None else base
        if model.init_head is None:
            return decoder
        return {"decoder": decoder, "head": model.init_head(jax.random.fold_in(key, 1), config.trunk.width)}

    batch = twin_batches(each) if config.twins else each[0]
    return Task(name=config.role, init=init, loss=model.loss, batch=batch, twins=config.twins)


def solve_detector(config: RoleConfig, source: Source) -> Params:
    """The parameters of a detector with ``config.ridge``; twins are stacked as ``fit`` stacks them."""
    rows = [_detector_rows(source, config, seed, "train") for seed in role_seeds(config)]
    each = [
        solve_word_detector(
            one["token"], one["mask"], one["value"], vocab_size=len(source.tokenizer), ridge=config.ridge
        )
        for one in rows
    ]
    return jax.tree.map(lambda *x: jnp.stack(x), *each) if config.twins else each[0]


def role_seeds(config: RoleConfig) -> list[int]:
    """The seed of a role's model, or of each of its twins."""
    return [config.seed + TWIN_SEED * i for i in range(config.twins or 1)]


def stop_id(source: Source) -> int:
    """The id of the token that ends a sentence."""
    return source.tokenizer.convert_tokens_to_ids(".")


def need(source: Source, name: str) -> Callable:
    """The rows of a source by their name. UserError where it has none."""
    rows = getattr(source, name)
    if rows is None:
        raise UserError(f"data: the source {source.name!r} has no labels for {name}")
    return rows


def _base_rows(source: Source, config: RoleConfig, seed: int, split: str) -> Rows:
    return document_rows(
        source.tokenizer,
        source.documents(config.rows, seed, split),
        source.lengths.document,
        pack=source.pack_documents,
        begin=source.template.begin,
        end=source.template.end,
    )


def _detector_rows(source: Source, config: RoleConfig, seed: int, split: str) -> Rows:
    texts, value = need(source, "labelled")(config.rows, seed, split)
    return text_rows(source.tokenizer, texts, source.lengths.text, value=value)


def _translator_rows(source: Source, config: RoleConfig, seed: int, split: str) -> Rows:
    texts, shift = need(source, "wishes")(config.rows, seed, split)
    return text_rows(source.tokenizer, texts, source.lengths.wish, shift=shift)


def _analyzer_rows(source: Source, config: RoleConfig, seed: int, split: str) -> Rows:
    return entailment_rows(source.tokenizer, need(source, "pairs")(config.rows, seed, split), source.lengths.text)


def _reward_rows(source: Source, config: RoleConfig, seed: int, split: str) -> Rows:
    drawn = need(source, "scored")(config.rows, seed, split)
    sizes = (source.lengths.question, source.lengths.answer)
    rows = pair_rows(source.tokenizer, [d.question for d in drawn], [d.text for d in drawn], sizes, end=False)
    rows["reward"] = np.stack([d.scores for d in drawn])[:, config.objective].astype(np.float32)
    return rows


def _visa_sft_rows(source: Source, config: RoleConfig, seed: int, split: str) -> Rows:
    drawn = need(source, "visa_pairs")(config.rows, seed, split)
    prompts = [source.template.visa(p.question, p.source, p.target) for p in drawn]
    sizes = (source.lengths.visa_prompt, source.lengths.text)
    return pair_rows(source.tokenizer, prompts, [p.reference for p in drawn], sizes, end=True)


def _moc_sft_rows(source: Source, config: RoleConfig, seed: int, split: str) -> Rows:
    drawn = need(source, "answers")(config.rows, seed, split)
    chosen = np.random.default_rng([9, seed]).integers(len(config.preferences), size=len(drawn))
    prompts = [
        source.template.moc(d.question, config.preferences[i], config.preference_encoding)
        for d, i in zip(drawn, chosen, strict=True)
    ]
    sizes = (source.lengths.moc_prompt, source.lengths.answer)
    return pair_rows(source.tokenizer, prompts, [d.text for d in drawn], sizes, end=True)


def _language_model(loss: Callable) -> Callable:
    return lambda lm, source: RoleModel(loss(lm), None)


def _reader(make_loss: Callable) -> Callable:
    def model(lm: LanguageModel, source: Source) -> RoleModel:
        detect, init_head = make_detector(lm, len(VALUES))
        return RoleModel(make_loss(detect), init_head)

    return model


def _analyzer(lm: LanguageModel, source: Source) -> RoleModel:
    encode, compare, init_head = make_analyzer(lm, stop_id=stop_id(source))
    return RoleModel(tasks.analyzer_loss(encode, compare), init_head)


def _reward_model(lm: LanguageModel, source: Source) -> RoleModel:
    score, init_head = make_reward_reader(lm)
    return RoleModel(tasks.reward_model_loss(score), init_head)


LANGUAGE_MODELS = ("base", "visa_sft", "moc_sft")
ROLES = {
    "base": RoleSpec(_base_rows, _language_model(tasks.language_loss)),
    "detector": RoleSpec(_detector_rows, _reader(tasks.detector_loss)),
    "translator": RoleSpec(_translator_rows, _reader(tasks.translator_loss)),
    "analyzer": RoleSpec(_analyzer_rows, _analyzer),
    "reward_model": RoleSpec(_reward_rows, _reward_model),
    "visa_sft": RoleSpec(_visa_sft_rows, _language_model(tasks.completion_loss)),
    "moc_sft": RoleSpec(_moc_sft_rows, _language_model(tasks.completion_loss)),
}


def role_functions(source: Source, role: RoleConfig) -> dict[str, Any]:
    """The pure functions of each reading role over the trunk of ``role``: what rewards and evaluation take."""
    lm, _ = make_decoder(decoder_config(source, role.trunk))
    detect = make_word_detector() if role.ridge else make_detector(lm, len(VALUES))[0]
    encode, compare, _ = make_analyzer(lm, stop_id=stop_id(source))
    score, _ = make_reward_reader(lm)
    return {"detector": detect, "translator": detect, "analyzer": (encode, compare), "reward_model": score}


def held_out_loss(task: Task, rows: Rows, batch_size: int, layout: Layout = ONE_DEVICE) -> Callable[[Params], float]:
    """``loss(params)`` over held-out rows, compiled once; of twins the mean. The rows must fill whole batches."""
    count = len(next(iter(rows.values()))) // batch_size
    cut = {name: x[: count * batch_size].reshape(count, batch_size, *x.shape[1:]) for name, x in rows.items()}
    stacked = jax.tree.map(jnp.asarray, layout.put_rows(cut, axis=1))

    def loss(params, stacked, frozen):
        joined = task.join(params, frozen)
        sums = jax.lax.map(lambda batch: task.loss(joined, batch)[0], stacked)
        return jnp.sum(sums.total) / jnp.sum(sums.weight)

    def of_twins(params, stacked, frozen):
        return jnp.mean(jax.vmap(loss, in_axes=(0, None, None))(params, stacked, frozen))

    program = layout.program(of_twins if task.twins else loss, layout.everywhere())
    return lambda params: float(program(params, stacked, task.frozen))
