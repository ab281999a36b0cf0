"""Hugging Face directories (config.json, safetensors, tokenizer) in and out, for the decoders of ``families``.

1 ``read_decoder_config``   config.json -> DecoderConfig
2 ``fit_weights``           names and shapes of all tensors, before any is read
3 ``load_params``           tensor by tensor onto the devices
4 ``save_pretrained``       the way back; also how our own language models are handed to others
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from visa_jax.config import FieldError, UserError
from visa_jax.models.decoder import DTYPES, DecoderConfig, make_decoder
from visa_jax.models.families import FAMILIES, MULTIMODAL, OUTPUT, VISION, WRAPPED, Family, text_fields
from visa_jax.models.hub import local_directory
from visa_jax.models.layout import Path as ParamPath
from visa_jax.models.layout import Slot, read_param, stored_shape, stored_tensors
from visa_jax.models.weights import Weights, open_weights, read_json, write_json, write_weights
from visa_jax.types import LanguageModel, Params

OURS = ("dtype", "remat", "scan_layers", "attention")  # fields of DecoderConfig that no directory settles
BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")  # constants that old files hold as tensors
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


class Pretrained(NamedTuple):
    """A language model with its parameters and what a generation has to know."""

    lm: LanguageModel
    params: Any
    config: DecoderConfig
    end_ids: tuple[int, ...]  # any of these ends a completion
    pad_id: int
    family: str = "llama"  # model_type


def load_pretrained(
    directory: str | Path,
    *,
    param_dtype: str = "float32",
    sharding_fn: Callable | None = None,
    check_fn: Callable | None = None,
    **changes,
) -> tuple[Pretrained, Any]:
    """``(model, tokenizer)`` of a Hugging Face directory of a family in FAMILIES.

    Args:
        directory: holds config.json, model.safetensors (or its shards with an index) and a tokenizer; or a name on the
            hub (``hub.local_directory``).
        param_dtype, sharding_fn: of ``load_params``.
        check_fn: ``(DecoderConfig, tokenizer) -> None``, may refuse before a device holds anything.
        changes: fields of DecoderConfig that a directory does not settle: dtype, remat, scan_layers.

    Raises:
        UserError: one line with the file and the field or tensor: missing, damaged, of another family or shape, a
            tokenizer larger than the embedding. All of it is checked before a device holds anything.
    """
    directory = local_directory(directory)
    config = read_decoder_config(directory, **changes)
    family, (end_ids, pad_id) = read_family(directory), special_ids(directory)
    with open_weights(directory) as weights:
        slots = fit_weights(weights, FAMILIES[family], config)
        if vision := [name for name in weights.names if name.startswith(VISION)]:
            print(f"{directory}: the text decoder is read, {len(vision)} tensors of vision are not", file=sys.stderr)
        tokenizer = load_tokenizer(directory, config.vocab_size)
        if check_fn is not None:
            check_fn(config, tokenizer)
        params = read_params(weights, slots, _shapes(config), param_dtype, sharding_fn)
    lm, _ = make_decoder(config)
    return Pretrained(lm, params, config, end_ids, pad_id, family), tokenizer


def save_pretrained(
    directory: str | Path,
    params: Params,
    config: DecoderConfig,
    tokenizer: Any = None,
    *,
    dtype: str = "float32",
    family: str | None = None,
    end_ids: tuple[int, ...] | None = None,
    pad_id: int | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write config.json, generation_config.json, the weights and, if given, the tokenizer with its chat template.

    Args:
        dtype: of the weights: float32, bfloat16 or float16.
        family: model_type; None = the first in FAMILIES that the decoder fits.
        end_ids, pad_id: all ids that end a completion, and what fills up; None = the tokenizer's own.

    Raises UserError where no family in FAMILIES (or not ``family``) has the same choices.
    """
    directory, contents = Path(directory), hf_config(config, family)
    if dtype not in DTYPES:
        raise UserError(f"dtype: {dtype!r} is none of {', '.join(DTYPES)}")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    if end_ids:
        ids["eos_token_id"] = end_ids[0] if len(end_ids) == 1 else list(end_ids)
    if pad_id is not None:
        ids["pad_token_id"] = pad_id
    ids = {name: number for name, number in ids.items() if number is not None}
    directory.mkdir(parents=True, exist_ok=True)
    slots = FAMILIES[contents["model_type"]].slots
    write_weights(directory, stored_tensors(params, slots, jnp.dtype(dtype)), max_shard_bytes)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(directory))
    write_json(directory / "generation_config.json", ids)
    # last: a directory without it counts as no model
    write_json(directory / "config.json", contents | ids | {"torch_dtype": dtype})


def read_family(directory: str | Path) -> str:
    """model_type of ``directory/config.json``, of a multimodal one that of its text decoder. UserError unless known."""
    path = Path(directory) / "config.json"
    family = read_json(path).get("model_type")
    if family not in (*FAMILIES, *MULTIMODAL):
        raise UserError(f"{path}: model_type {family!r} is none of {', '.join((*FAMILIES, *MULTIMODAL))}")
    return MULTIMODAL.get(family, family)


def read_decoder_config(directory: str | Path, **changes) -> DecoderConfig:
    """DecoderConfig of ``directory/config.json``. Raises UserError for what the decoder cannot do."""
    path = Path(directory) / "config.json"
    family = FAMILIES[read_family(directory)]
    contents = read_fields(path, lambda: text_fields(read_json(path)))
    refuse_fields(path, contents, family.refused)
    return read_fields(path, lambda: DecoderConfig(**family.read(contents), **changes))


def refuse_fields(path: Path, contents: dict, allowed: dict[str, tuple]) -> None:
    """UserError for the first field of a JSON file that is there with another value than those allowed."""
    for name, values in allowed.items():
        if contents.get(name) is not None and contents[name] not in values:
            raise UserError(f"{path}: {name} = {contents[name]!r} is not supported")


def read_fields(path: Path, make_fn: Callable[[], Any]) -> Any:
    """``make_fn()``, which reads the contents of ``path``; what they make it raise as a UserError of one line."""
    try:
        return make_fn()
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise UserError(f"{path}: a field is of the wrong type ({error})") from None


def hf_config(config: DecoderConfig, family: str | None = None) -> dict:
    """The contents of config.json for a decoder: of the family whose reading of them gives the decoder back.

    Raises UserError naming the fields in which the nearest family differs.
    """
    name, contents = fitting_family("decoder", FAMILIES, family, config, _read_back)
    return {"architectures": [FAMILIES[name].architecture], "model_type": name, **contents}


def fitting_family(
    kind: str, families: dict[str, Any], family: str | None, config: Any, read_fn: Callable
) -> tuple[str, dict]:
    """``(model_type, config.json)`` of the first family (or of ``family``) that gives a config back unchanged.

    Args:
        kind: what is written, for the message.
        read_fn: ``(family, contents, config) -> config``, or raises FieldError.

    Raises UserError naming what would be lost in the nearest one.
    """
    nearest = None
    for name in families if family is None else [family]:
        contents = families[name].write(config)
        differing = _differing(config, lambda name=name, contents=contents: read_fn(families[name], contents, config))
        if not differing:
            return name, contents
        if nearest is None or len(differing) < len(nearest[1]):
            nearest = name, differing
    name, differing = nearest
    raise UserError(f"no Hugging Face family is like this {kind}; {name} has not {', '.join(differing)}")


def fit_weights(weights: Weights, family: Family, config: DecoderConfig) -> dict[ParamPath, Slot]:
    """Where each parameter of the decoder is in ``weights``. Reads nothing but names and shapes.

    Raises UserError for a tensor that is not there, has another shape, or belongs to no parameter of such a decoder.
    """
    bases = [base for base in (*WRAPPED, family.base) if any(name.startswith(base) for name in weights.names)]
    base = bases[0] if bases else ""
    output = WRAPPED.get(base, OUTPUT)
    slots, expected = {}, set()
    for path, leaf in _shapes(config).items():
        slot = family.slots[path]
        if slot.name.startswith(family.base):
            slot = slot._replace(name=base + slot.name.removeprefix(family.base))
        elif slot.name == OUTPUT:
            slot = slot._replace(name=output)
        slots[path] = slot
        stacked = path[0] == "layers"
        shape = stored_shape(path, slot, leaf.shape[1:] if stacked else leaf.shape)
        for layer in range(config.layers if stacked else 1):
            weights.check(slot.name.format(layer), shape)
            expected.add(slot.name.format(layer))
    for name in weights.names:
        known = name in expected or name.endswith(BUFFERS) or (name == output and config.tie_embeddings)
        # what stands outside are heads for other tasks, and of a multimodal model its eyes, which are known by name
        outside = name.startswith(VISION) if base in WRAPPED else not name.startswith(base)
        if not known and not outside:
            raise UserError(f"{weights.source}: tensor {name} has no place in the model of config.json")
    return slots


def load_params(
    directory: str | Path,
    config: DecoderConfig,
    *,
    param_dtype: str = "float32",
    sharding_fn: Callable | None = None,
) -> Params:
    """The parameters of a directory, layers stacked. Raises UserError naming a wrong or missing tensor.

    Host memory holds one tensor at a time (on CPU the parameters are there, too).

    Args:
        param_dtype: float32 or bfloat16.
        sharding_fn: ``path of the parameter -> jax.sharding.Sharding``, None = the first device.
    """
    with open_weights(directory) as weights:
        slots = fit_weights(weights, FAMILIES[read_family(directory)], config)
        return read_params(weights, slots, _shapes(config), param_dtype, sharding_fn)


def load_tokenizer(directory: str | Path, vocab_size: int):
    """The fast tokenizer of a directory. UserError where there is none, or one with ids beyond the embedding.

    Added special tokens may lie there, as in Gemma 3's text models that of pictures: nothing says them by chance.
    """
    from transformers import AutoTokenizer  # here, because it takes seconds and most users of models never need it

    directory = Path(directory)
    found = [directory / name for name in TOKENIZERS if (directory / name).is_file()]
    if not found:
        raise UserError(f"{directory}: no tokenizer.json (nor {', '.join(TOKENIZERS[1:])})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory))
    except Exception as error:  # of a damaged file the tokenizers library says what it likes
        raise UserError(f"{found[0]}: damaged tokenizer ({' '.join(str(error).split())[:200]})") from None
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    highest = max((i for i in tokenizer.get_vocab().values() if i not in special), default=0)
    if highest >= vocab_size:
        raise UserError(f"{found[0]}: token id {highest} lies beyond the embedding of {vocab_size} rows")
    return tokenizer


def special_ids(directory: str | Path) -> tuple[tuple[int, ...], int]:
    """(end ids, pad id) of generation_config.json, else of config.json; the first end id pads where none is named.

    UserError where one is no number of a token.
    """
    path = Path(directory) / "generation_config.json"
    config = read_json(Path(directory) / "config.json")
    contents = config.get("text_config", {}) | config | (read_json(path) if path.is_file() else {})
    ends = contents.get("eos_token_id")
    ends = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
    pad = contents.get("pad_token_id")
    for field, found in (("eos_token_id", ends), ("pad_token_id", () if pad is None else (pad,))):
        if not all(isinstance(each, int) and each >= 0 for each in found):
            raise UserError(f"{directory}: {field} = {contents[field]!r} is no id of a token, nor a list of such")
    return ends, pad if pad is not None else (ends[0] if ends else 0)


def _read_back(family, contents, config):
    return DecoderConfig(**family.read(contents), **{name: getattr(config, name) for name in OURS})


def _differing(config, again_fn):
    """``field = value`` for each choice of a config that is not in ``again_fn()``."""
    try:
        again = again_fn()
    except FieldError as error:
        return [str(error)]
    names = [field.name for field in dataclasses.fields(config)]
    return [f"{name} = {getattr(config, name)}" for name in names if getattr(config, name) != getattr(again, name)]


def _shapes(config):
    return flatten_dict(jax.eval_shape(make_decoder(config)[1], jax.random.key(0)))


def read_params(
    weights: Weights,
    slots: dict[ParamPath, Slot],
    shapes: dict[ParamPath, Any],
    param_dtype: str,
    sharding_fn: Callable | None,
) -> Params:
    """The parameters of ``shapes`` (path -> what has a shape) from where ``slots`` say; see ``load_params``.

    Large ones first: while its layers are joined, a parameter is on the device twice.
    """
    if param_dtype not in ("float32", "bfloat16"):
        raise UserError(f"param_dtype: {param_dtype!r} is none of float32, bfloat16")
    first, params = jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), {}
    for path, leaf in sorted(shapes.items(), key=lambda item: -item[1].size):
        sharding = first if sharding_fn is None else sharding_fn(path)
        params[path] = read_param(weights, path, slots[path], leaf.shape, jnp.dtype(param_dtype), sharding)
    return unflatten_dict(params)
