"""Decoders that a field names: a run of ours, a Hugging Face directory, or a run that `visa-jax convert` made of one.

1 ``open_decoder``   a directory -> sizes and plain parameters, checked against the source before they are read
2 ``make_policy``    those -> what is frozen, what is trained, and how the two are joined
3 ``open_written``   a finished run -> the decoder that it left, adapters on their base

A run that stands on a Hugging Face model keeps that model's config.json (``huggingface/``); where it trained adapters,
params/ holds them alone, and their base is opened where the run's config says that it started (``runs.claim_base``).
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from visa_jax.cli.runs import (
    HUGGINGFACE,
    PRETRAINED,
    Run,
    check_base,
    open_pretrained_run,
    open_run,
    run_kind,
    start_of,
)
from visa_jax.config import FieldError, UserError, from_config_dict, load_config
from visa_jax.data.source import Source
from visa_jax.data.template import condition_size
from visa_jax.models import DecoderConfig, load_pretrained, make_decoder
from visa_jax.models.families import FAMILIES
from visa_jax.models.hf import read_decoder_config, special_ids
from visa_jax.models.hub import local_directory
from visa_jax.models.lora import attach, merge_adapters
from visa_jax.models.quantize import dense_params
from visa_jax.training.placement import lay_decoder
from visa_jax.training.policy import PolicyConfig
from visa_jax.training.roles import LANGUAGE_MODELS, RoleConfig, decoder_config
from visa_jax.types import LanguageModel, Params

MADE_BY = "visa-jax supervise, or name a Hugging Face directory or a model of the hub"


class Opened(NamedTuple):
    """A decoder with its parameters."""

    config: DecoderConfig
    params: Params
    role: RoleConfig | None  # that a run of ``supervise``, or what a run of ``train`` started from, was made with
    huggingface: Path | None  # holds config.json of its family; None = a decoder of a role's trunk
    end_ids: tuple[int, ...]  # of ``end_ids``


class Policy(NamedTuple):
    """A decoder ready to be trained."""

    lm: LanguageModel
    config: DecoderConfig
    frozen: Params  # the start: the KL reference, and with adapters their base
    trained: Params  # what training begins with: ``frozen`` itself, or fresh adapters
    join: Callable[[Params], Params]  # what was trained -> the parameters that ``lm`` takes
    huggingface: Path | None
    end_ids: tuple[int, ...]  # any of these ends a completion


def is_pretrained(directory: Path) -> bool:
    """Whether a directory holds a Hugging Face model, as it was published or as `visa-jax convert` keeps it."""
    config = load_config(directory)
    return "model_type" in config or run_kind(config) == PRETRAINED


def open_decoder(
    directory: str | Path,
    field: str,
    kinds: tuple[str, ...],
    source: Source,
    policy: PolicyConfig,
    *,
    window: int,
    trained: bool = True,
    mesh: Mesh | None = None,
) -> Opened:
    """The decoder in a directory, computed as ``policy`` says, with plain parameters.

    Args:
      field: the config field or flag that names it, for messages.
      kinds: of runs that may stand there; a Hugging Face model always may.
      window: tokens of a prompt with its completion, which must fit.
      trained: False for a decoder that stays as it is.
      mesh: where its parameters are laid in pieces, as they are read; None = whole on the first device.

    Raises:
      UserError: missing, damaged or of another kind, with another vocabulary than the source's, too narrow a window, a
        pattern of ``policy`` that names nothing; a published model is refused before its parameters are read.
    """
    directory = local_directory(directory, field, MADE_BY)

    def check(config: DecoderConfig, tokenizer: Any) -> None:
        _check_vocabulary(directory, field, tokenizer, source)
        if config.max_length < window:
            raise UserError(
                f"{field}: {directory} has a window of {config.max_length} tokens, prompt and completion of "
                f"config.data.sizes need {window}"
            )
        if trained and policy.lora:
            _check_pattern(config, policy)

    kept = policy.frozen_dtype if trained else policy.dtype
    contents = load_config(directory)
    if "model_type" in contents:
        sharding_fn = None if mesh is None else _sharding_fn(read_decoder_config(directory), mesh)
        model, _ = load_pretrained(directory, param_dtype=kept, sharding_fn=sharding_fn, check_fn=check)
        opened = Opened(model.config, model.params, None, directory, end_ids(source, directory))
    elif run_kind(contents) == PRETRAINED:
        lay_fn = functools.partial(lay_decoder, mesh=mesh)
        model, *_ = open_pretrained_run(directory, field, check_fn=check, layout_fn=lay_fn)
        own = directory / HUGGINGFACE
        opened = Opened(model.config, model.params, None, own, end_ids(source, own))
    else:

        def layout(run: Run, shapes: Params) -> Params:
            return lay_decoder(shapes, read_written(run, source)[0], mesh)

        found = open_run(directory, field, kinds, made_by=MADE_BY, layout_fn=layout if mesh is not None else None)
        opened = open_written(found, source, merged=True, mesh=mesh)
        check(opened.config, found.tokenizer)
    params = jax.tree.map(lambda leaf: leaf.astype(kept), opened.params)
    return opened._replace(config=policy.computed(opened.config), params=params)


def make_policy(
    opened: Opened, config: PolicyConfig, key: jax.Array, condition: int = 0, mesh: Mesh | None = None
) -> Policy:
    """What ``config`` makes of a decoder that was opened on ``mesh``; ``key`` draws adapters.

    With ``condition`` it reads a vector of that size beside its prompt; its start has never seen one, so the map begins
    at zero, and is trained as a whole beside adapters, too.
    """
    decoder = dataclasses.replace(opened.config, condition=condition)
    lm, _ = make_decoder(decoder)
    lora = config.lora
    frozen = _named(lambda: config.freeze(opened.params)) if lora else dict(opened.params)
    trained = _named(lambda: config.adapters(key, frozen)) if lora else frozen
    if condition:  # placed like the rest, or programs compile for it once more
        place = frozen["embedding"].sharding if mesh is None else None
        for tree in (frozen, trained) if lora else (frozen,):
            tree["condition"] = {"kernel": jax.device_put(jnp.zeros((condition, decoder.width)), place)}
    frozen = lay_decoder(frozen, decoder, mesh)
    trained = lay_decoder(trained, decoder, mesh) if lora else frozen
    join = (lambda low: attach(frozen, low, lora)) if lora else _same
    return Policy(lm, decoder, frozen, trained, join, opened.huggingface, opened.end_ids)


def open_written(found: Run, source: Source, *, merged: bool = False, mesh: Mesh | None = None) -> Opened:
    """The decoder that a run of a language model or of ``train`` left; on ``mesh`` where it was opened there.

    Adapters stand beside their base, as they were trained; ``merged``: in plain float32 parameters that compute the
    same, of a quantised base those that its levels stand for.

    Raises UserError where what adapters stand on is not there any more, or another model by now.
    """
    config, policy, role = read_written(found, source)
    params, own = found.params, found.workdir / HUGGINGFACE
    own = own if own.is_dir() else None
    if policy.lora:
        check_base(found.workdir, found.config)
        field, start = start_of(found.config)
        named = f"{found.workdir}/config.json: {field}"
        base = open_decoder(start, named, LANGUAGE_MODELS, source, policy, window=0, mesh=mesh)
        frozen = policy.freeze(base.params)
        if merged:
            plain = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), dense_params(frozen))
            params = merge_adapters(plain, params, policy.lora)
        else:
            params = attach(frozen, params, policy.lora)
    return Opened(config, params, role, own, end_ids(source, own))


def end_ids(source: Source, huggingface: Path | None) -> tuple[int, ...]:
    """What ends a completion: all that a model's generation_config.json names, and the tokenizer's own end token, which
    is what SFT teaches."""
    own, named = source.tokenizer.eos_token_id, special_ids(huggingface)[0] if huggingface else ()
    return named if own in named else (own, *named)


def read_written(found: Run, source: Source) -> tuple[DecoderConfig, PolicyConfig, RoleConfig | None]:
    """What ``open_written`` reads before parameters: the decoder, how it was trained, and ``start_role``."""
    own = found.workdir / HUGGINGFACE
    policy = from_config_dict(PolicyConfig, found.config.get("policy", {}), f"{found.workdir}/config.json: policy")
    role = start_role(found.workdir, found.config)
    decoder = read_decoder_config(own) if own.is_dir() else decoder_config(source, role.trunk)
    moc = found.config.get("moc")
    condition = condition_size(found.config.preference_encoding, len(moc.reward_names)) if moc else 0
    return policy.computed(dataclasses.replace(decoder, condition=condition)), policy, role


def base_of(found: Run) -> str | None:
    """The Hugging Face directory or hub name of a decoder that a run started from; None where it started from a run, or
    from a multimodal model, in which PEFT would look for the adapters elsewhere."""
    _, start = start_of(found.config)
    family = load_config(local_directory(start, weights=False)).get("model_type")
    return start if family in FAMILIES else None


def start_role(workdir: Path, config: Any) -> RoleConfig | None:
    """The role of a supervised run; of a train run that of what it started from, None of a Hugging Face model."""
    if "role" in config:
        return from_config_dict(RoleConfig, config.role, f"{workdir}/config.json: role")
    field, start = start_of(config)
    directory = local_directory(start, f"{workdir}/config.json: {field}", MADE_BY, weights=False)
    return None if is_pretrained(directory) else start_role(directory, load_config(directory))


def _sharding_fn(config: DecoderConfig, mesh: Mesh) -> Callable:
    """Path of a parameter -> where it lies on ``mesh``."""
    shapes = jax.eval_shape(make_decoder(config)[1], jax.random.key(0))
    laid = flatten_dict(lay_decoder(shapes, config, mesh))
    return lambda path: laid[path].sharding


def _check_vocabulary(directory: Path, field: str, tokenizer: Any, source: Source) -> None:
    theirs, ours = tokenizer.get_vocab(), source.tokenizer.get_vocab()
    if theirs == ours:
        return
    differing = sorted(word for word in theirs.keys() | ours.keys() if theirs.get(word) != ours.get(word))
    raise UserError(
        f"{field}: the tokenizer of {directory} ({len(theirs)} tokens) is not that of config.data.tokenizer.directory "
        f"({len(ours)} tokens, {differing[0]!r} differs); a run has one vocabulary: name {directory} there, and for a "
        "published model config.data.template=json"
    )


def _check_pattern(decoder: DecoderConfig, policy: PolicyConfig) -> None:
    shapes = jax.eval_shape(make_decoder(decoder)[1], jax.random.key(0))
    _named(lambda: jax.eval_shape(lambda: policy.adapters(jax.random.key(0), shapes)))


def _named(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except FieldError as error:
        raise FieldError(f"config.policy.{error.field}", error.message) from None


def _same(params: Params) -> Params:
    return params
