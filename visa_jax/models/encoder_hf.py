"""Hugging Face directories of encoders in and out; the counterpart of ``hf`` for the families of ``encoder_families``.

1 ``read_encoder_config``   config.json -> EncoderConfig: architecture, choices, number of classes
2 ``fit_encoder``           names and shapes of all tensors, before any is read
3 ``load_encoder``          the tokenizer, then tensor by tensor onto the devices
4 ``save_encoder``          the way back
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from visa_jax.config import UserError
from visa_jax.models.encoder import DTYPES, EncoderConfig, make_classifier, make_encoder
from visa_jax.models.encoder_families import ENCODER_FAMILIES, EncoderFamily
from visa_jax.models.heads import make_embedder
from visa_jax.models.hf import fitting_family, load_tokenizer, read_fields, read_params, refuse_fields
from visa_jax.models.hub import local_directory
from visa_jax.models.layout import Path as ParamPath
from visa_jax.models.layout import Slot, stored_shape, stored_tensors
from visa_jax.models.weights import Weights, open_weights, read_json, write_json, write_weights
from visa_jax.types import Params

BARE, CLASSIFIER = "Model", "ForSequenceClassification"  # ends of architecture names
MASKED = "ForMaskedLM"  # as encoders are pretrained: read as the bare model, its head is another task's
# constants, and a table that DeBERTa's published files hold and its models do not read
MEAN = "pooling_mode_mean_tokens"
UNUSED = ("embeddings.position_ids", "embeddings.position_embeddings.weight")
OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


class PretrainedEncoder(NamedTuple):
    """An encoder with its parameters. All functions take (params, token_BT, mask_BT, type_BT=None)."""

    encode: Callable  # -> hidden_BTD
    classify: Callable | None  # -> float32 logits [B, classes]; None: it has no classes
    embed: Callable  # -> float32 [B, D] of length 1: the mean state of a text
    params: Any
    config: EncoderConfig
    labels: tuple[str, ...]  # names of the classes
    family: str  # model_type


def load_encoder(
    directory: str | Path, *, param_dtype: str = "float32", sharding_fn: Callable | None = None, dtype: str = "float32"
) -> tuple[PretrainedEncoder, Any]:
    """``(encoder, tokenizer)`` of a Hugging Face directory of a family in ENCODER_FAMILIES.

    Args:
        directory: holds config.json, model.safetensors (or its shards with an index) and a tokenizer; or a name on the
            hub (``hub.local_directory``).
        param_dtype: of the parameters, float32 or bfloat16.
        sharding_fn: ``path of a parameter -> jax.sharding.Sharding``, None = the first device.
        dtype: of the computation.

    Raises:
        UserError: one line with the file and the field or tensor: missing, damaged, of an unknown architecture, of
            another shape, a tokenizer larger than the embedding. All is checked before a device holds anything.
    """
    directory = local_directory(directory)
    family, config = read_encoder_config(directory, dtype=dtype)
    labels = read_labels(directory)[: config.classes]
    with open_weights(directory) as weights:
        config, slots = fit_encoder(weights, ENCODER_FAMILIES[family], config)
        tokenizer = load_tokenizer(directory, config.vocab_size)
        params = read_params(weights, slots, _shapes(config), param_dtype, sharding_fn)
    encode, _ = make_encoder(config)
    classify = make_classifier(config) if config.classes else None
    return PretrainedEncoder(encode, classify, make_embedder(encode), params, config, labels, family), tokenizer


def save_encoder(
    directory: str | Path,
    params: Params,
    config: EncoderConfig,
    tokenizer: Any = None,
    *,
    labels: tuple[str, ...] = (),
    family: str | None = None,
    dtype: str = "float32",
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write config.json, the weights (of ``dtype``) and, if given, the tokenizer; what ``load_encoder`` reads.

    Args:
        labels: names of the classes; () = LABEL_0 and so on.
        family: model_type; None = the first in ENCODER_FAMILIES that the encoder fits.

    Raises UserError where no family (or not ``family``) has the same choices.
    """
    directory, contents = Path(directory), _hf_config(config, family)
    if dtype not in DTYPES:
        raise UserError(f"dtype: {dtype!r} is none of {', '.join(DTYPES)}")
    if labels and len(labels) != config.classes:
        raise UserError(f"labels: {len(labels)} names for {config.classes} classes")
    if config.classes:
        named = labels or [f"LABEL_{i}" for i in range(config.classes)]
        contents["id2label"] = {str(i): name for i, name in enumerate(named)}
        contents["label2id"] = {name: i for i, name in enumerate(named)}
    directory.mkdir(parents=True, exist_ok=True)
    family = ENCODER_FAMILIES[contents["model_type"]]
    slots = encoder_slots(family, config, family.base if config.classes else "")
    write_weights(directory, stored_tensors(params, slots, jnp.dtype(dtype)), max_shard_bytes)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(directory))
    # last: a directory without it counts as no model
    write_json(directory / "config.json", contents | {"torch_dtype": dtype})


def read_encoder_config(directory: str | Path, **changes) -> tuple[str, EncoderConfig]:
    """``(model_type, EncoderConfig)`` of ``directory/config.json``. UserError for what the encoder cannot be.

    A bare model of a family that knows a pooler is given one; whether the file has it is seen by ``fit_encoder``. A
    masked language model is its bare model.
    """
    path = Path(directory) / "config.json"
    contents = read_json(path)
    name = contents.get("model_type")
    if name not in ENCODER_FAMILIES:
        raise UserError(f"{path}: model_type {name!r} is none of {', '.join(ENCODER_FAMILIES)}")
    family = ENCODER_FAMILIES[name]
    architecture = (contents.get("architectures") or [family.name + BARE])[0]
    known = [family.name + end for end in (BARE, MASKED, CLASSIFIER)]
    if architecture not in known:
        raise UserError(f"{path}: architecture {architecture!r} is none of {', '.join(known)}")
    refuse_fields(path, contents, family.refused)

    def make():
        return EncoderConfig(**family.read(contents), **_read_head(family, architecture, contents), **changes)

    return name, read_fields(path, make)


def read_labels(directory: str | Path) -> tuple[str, ...]:
    """Names of the classes in config.json's id2label; transformers takes two where it has none."""
    path = Path(directory) / "config.json"
    contents = read_json(path)
    named = contents.get("id2label") or {str(i): f"LABEL_{i}" for i in range(contents.get("num_labels", 2))}
    try:
        return tuple(str(named[str(i)]) for i in range(len(named)))
    except (KeyError, TypeError):
        raise UserError(f"{path}: id2label does not name the classes 0, 1, ...") from None


def require_mean(directory: str | Path) -> None:
    """UserError where a sentence-transformers directory says that its embedding is another than the mean of states."""
    pooling, modules = Path(directory) / "1_Pooling" / "config.json", Path(directory) / "modules.json"
    if pooling.is_file():
        modes = [name for name, chosen in read_json(pooling).items() if name.startswith("pooling_mode_") and chosen]
        if modes not in ([], [MEAN]):
            raise UserError(f"{pooling}: {modes[0]} is not supported ({MEAN} is)")
    if modules.is_file() and '.Dense"' in modules.read_text():
        raise UserError(f"{modules}: a Dense layer behind the mean is not supported")


def fit_encoder(
    weights: Weights, family: EncoderFamily, config: EncoderConfig
) -> tuple[EncoderConfig, dict[ParamPath, Slot]]:
    """The config, without a pooler where a bare model's file has none, and where each parameter is in ``weights``.

    Reads nothing but names and shapes. Raises UserError for a tensor that is not there, has another shape, or has no
    place in such an encoder; tensors outside of the bare model's prefix are heads for other tasks, and a classifier
    need not read the bare model's pooler (RoBERTa).
    """
    base = family.base if any(name.startswith(family.base) for name in weights.names) else ""
    if config.pooler and not config.classes and _pooler_name(family, base) not in weights:
        config = dataclasses.replace(config, pooler=None)
    slots, expected = encoder_slots(family, config, base), set()
    spare = {_renamed(slot.name, family.base, base) for slot in family.pooler.values()} if config.classes else set()
    for path, leaf in _shapes(config).items():
        slot, stacked = slots[path], path[0] == "layers"
        for new, old in OLD_NAMES.items():
            if slot.name.endswith(new) and slot.name.format(0).replace(new, old) in weights:
                slots[path] = slot = slot._replace(name=slot.name.replace(new, old))
        shape = stored_shape(path, slot, leaf.shape[1:] if stacked else leaf.shape)
        for layer in range(config.layers if stacked else 1):
            weights.check(slot.name.format(layer), shape)
            expected.add(slot.name.format(layer))
    for name in weights.names:
        known = name in expected | spare or name.removeprefix(base) in UNUSED
        if name.startswith(base) and not known:
            raise UserError(f"{weights.source}: tensor {name} has no place in the model of config.json")
    return config, slots


def _read_head(family, architecture, contents):
    """pooler and classes of an architecture."""
    if architecture != family.name + CLASSIFIER:
        return dict(pooler=family.pooled if family.pooler else None)
    return dict(pooler=family.pooled, classes=len(contents.get("id2label") or range(contents.get("num_labels", 2))))


def _hf_config(config, family):
    """config.json of the family whose reading of it gives the encoder back. UserError naming what would be lost."""
    name, contents = fitting_family("encoder", ENCODER_FAMILIES, family, config, _read_back)
    architecture = ENCODER_FAMILIES[name].name + (CLASSIFIER if config.classes else BARE)
    return {"architectures": [architecture], "model_type": name, **contents}


def _read_back(family, contents, config):
    head = _read_head(family, family.name + (CLASSIFIER if config.classes else BARE), contents)
    head |= dict(classes=config.classes, dtype=config.dtype)
    if config.pooler is None and not config.classes:
        head["pooler"] = None  # a bare model may lack it
    return EncoderConfig(**family.read(contents), **head)


def encoder_slots(family: EncoderFamily, config: EncoderConfig, base: str) -> dict[ParamPath, Slot]:
    """Where each parameter is in a file whose bare model has the prefix ``base``."""
    slots = family.slots | (family.head if config.classes else family.pooler if config.pooler else {})
    slots = {path: slots[path] for path in _shapes(config)}
    return {path: slot._replace(name=_renamed(slot.name, family.base, base)) for path, slot in slots.items()}


def _renamed(name, before, after):
    return after + name.removeprefix(before) if name.startswith(before) else name


def _pooler_name(family, base):
    return _renamed(family.pooler["pooler", "kernel"].name, family.base, base)


def _shapes(config):
    return flatten_dict(jax.eval_shape(make_encoder(config)[1], jax.random.key(0)))
