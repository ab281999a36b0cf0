"""Hugging Face directories (config.json, safetensors, tokenizer) in and out, for decoders shaped like Llama.

``FAMILIES`` says what sets a family apart, ``NAMES`` how each parameter is called there. A directory
written here is also how our own base language models are kept.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from visa_jax.config import FieldError, UserError
from visa_jax.models.decoder import DecoderConfig, make_decoder
from visa_jax.types import LanguageModel

NAMES = {
    ("embedding",): "model.embed_tokens.weight",
    ("layers", "attention_norm", "scale"): "model.layers.{}.input_layernorm.weight",
    ("layers", "attention", "query", "kernel"): "model.layers.{}.self_attn.q_proj.weight",
    ("layers", "attention", "query", "bias"): "model.layers.{}.self_attn.q_proj.bias",
    ("layers", "attention", "key", "kernel"): "model.layers.{}.self_attn.k_proj.weight",
    ("layers", "attention", "key", "bias"): "model.layers.{}.self_attn.k_proj.bias",
    ("layers", "attention", "value", "kernel"): "model.layers.{}.self_attn.v_proj.weight",
    ("layers", "attention", "value", "bias"): "model.layers.{}.self_attn.v_proj.bias",
    ("layers", "attention", "out", "kernel"): "model.layers.{}.self_attn.o_proj.weight",
    ("layers", "attention", "out", "bias"): "model.layers.{}.self_attn.o_proj.bias",
    ("layers", "attention", "query_norm", "scale"): "model.layers.{}.self_attn.q_norm.weight",
    ("layers", "attention", "key_norm", "scale"): "model.layers.{}.self_attn.k_norm.weight",
    ("layers", "mlp_norm", "scale"): "model.layers.{}.post_attention_layernorm.weight",
    ("layers", "mlp", "gate", "kernel"): "model.layers.{}.mlp.gate_proj.weight",
    ("layers", "mlp", "up", "kernel"): "model.layers.{}.mlp.up_proj.weight",
    ("layers", "mlp", "down", "kernel"): "model.layers.{}.mlp.down_proj.weight",
    ("norm", "scale"): "model.norm.weight",
    ("output", "kernel"): "lm_head.weight",
}

# model_type -> (architecture, what its config.json implies of our bias, out_bias and qk_norm)
FAMILIES = {
    "llama": ("LlamaForCausalLM", lambda c: _biases(c.get("attention_bias", False), qk_norm=False)),
    "qwen2": ("Qwen2ForCausalLM", lambda c: dict(bias=True, out_bias=False, qk_norm=False)),
    "qwen3": ("Qwen3ForCausalLM", lambda c: _biases(c.get("attention_bias", False), qk_norm=True)),
}


class Pretrained(NamedTuple):
    """A language model with its parameters and what a generation has to know."""

    lm: LanguageModel
    params: Any
    config: DecoderConfig
    end_ids: tuple[int, ...]  # any of these ends a completion
    pad_id: int


def load_pretrained(directory: str | Path, **changes) -> tuple[Pretrained, Any]:
    """``(model, tokenizer)`` of a Hugging Face directory of a family in FAMILIES.

    Args:
        directory: holds config.json, model.safetensors (or its shards with an index) and a tokenizer.
        changes: fields of DecoderConfig that a directory does not settle: dtype, remat, scan_layers.

    Raises:
        UserError: one line with the file or field: missing, damaged, of another family or shape.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory")
    config = read_decoder_config(directory, **changes)
    lm, _ = make_decoder(config)
    end_ids, pad_id = _special_ids(directory)
    model = Pretrained(lm=lm, params=load_params(directory, config), config=config, end_ids=end_ids, pad_id=pad_id)
    return model, _load_tokenizer(directory)


def save_pretrained(directory: str | Path, params, config: DecoderConfig, tokenizer=None) -> None:
    """Write config.json, generation_config.json, model.safetensors (float32) and, if given, the tokenizer.

    Raises UserError where no family in FAMILIES has the same choices.
    """
    directory = Path(directory)
    contents = hf_config(config)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    ids = {name: number for name, number in ids.items() if number is not None}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(_to_hf(params, config), directory / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        tokenizer.save_pretrained(str(directory))
    _write_json(directory / "generation_config.json", ids)
    _write_json(directory / "config.json", contents | ids)  # last: a directory without it counts as no model


def read_decoder_config(directory: Path, **changes) -> DecoderConfig:
    """DecoderConfig of ``directory/config.json``. Raises UserError for what the decoder cannot do."""
    path = Path(directory) / "config.json"
    contents = _read_json(path)
    family = contents.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"{path}: model_type {family!r} is none of {', '.join(FAMILIES)}")
    rope = contents.get("rope_parameters") or contents.get("rope_scaling") or {}
    unsupported = {
        "hidden_act": contents.get("hidden_act", "silu") != "silu",
        "mlp_bias": contents.get("mlp_bias", False),
        "use_sliding_window": contents.get("use_sliding_window", False),
        "rope_scaling": rope.get("rope_type", rope.get("type", "default")) != "default",
    }
    for name, present in unsupported.items():
        if present:
            raise UserError(f"{path}: {name} = {contents.get(name, rope)!r} is not supported")
    try:
        fields = dict(
            vocab_size=contents["vocab_size"],
            width=contents["hidden_size"],
            layers=contents["num_hidden_layers"],
            heads=contents["num_attention_heads"],
            kv_heads=contents.get("num_key_value_heads") or contents["num_attention_heads"],
            head_dim=contents.get("head_dim") or contents["hidden_size"] // contents["num_attention_heads"],
            mlp_width=contents["intermediate_size"],
            rope_theta=float(contents.get("rope_theta") or rope.get("rope_theta", 10_000.0)),
            norm_eps=contents["rms_norm_eps"],
            tie_embeddings=contents.get("tie_word_embeddings", False),
            max_length=contents["max_position_embeddings"],
        )
        return DecoderConfig(**fields, **FAMILIES[family][1](contents), **changes)
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing") from None
    except FieldError as error:
        raise UserError(f"{path}: {error}") from None


def hf_config(config: DecoderConfig) -> dict:
    """The contents of config.json for a decoder. Raises UserError where no family fits."""
    chosen = dict(bias=config.bias, out_bias=config.out_bias, qk_norm=config.qk_norm)
    trials = [(name, attention_bias) for name in FAMILIES for attention_bias in (False, True)]
    fits = [(name, ab) for name, ab in trials if FAMILIES[name][1]({"attention_bias": ab}) == chosen]
    if not fits or not config.causal:
        raise UserError(f"no Hugging Face family has causal = {config.causal} with {chosen}")
    if config.condition:
        raise UserError(f"no Hugging Face family reads a condition beside its prompt (condition = {config.condition})")
    family, attention_bias = fits[0]
    return {
        "architectures": [FAMILIES[family][0]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": attention_bias,
        "torch_dtype": "float32",
    }


def load_params(directory: Path, config: DecoderConfig):
    """The float32 parameters of a directory, layers stacked. Raises UserError naming a wrong or missing tensor."""
    tensors = _read_tensors(Path(directory))
    shapes = flatten_dict(jax.eval_shape(make_decoder(config)[1], jax.random.key(0)))

    def fetch(path, name, shape):
        if name not in tensors:
            raise UserError(f"{directory}: the weights have no tensor {name}")
        tensor = tensors[name].astype(np.float32)
        tensor = tensor.T if path[-1] == "kernel" else tensor
        if tensor.size != np.prod(shape) or tensor.shape[-1:] != _flat(path, shape)[-1:]:
            raise UserError(f"{directory}: tensor {name} of shape {tensors[name].shape} does not fit config.json")
        return tensor.reshape(shape)

    params = {}
    for path, leaf in shapes.items():
        if path[0] == "layers":
            layers = [fetch(path, NAMES[path].format(layer), leaf.shape[1:]) for layer in range(config.layers)]
            params[path] = jnp.asarray(np.stack(layers))
        else:
            params[path] = jnp.asarray(fetch(path, NAMES[path], leaf.shape))
    return unflatten_dict(params)


def _to_hf(params, config):
    """{tensor name: contiguous numpy array} in Hugging Face's layout, kernels [out, in]."""
    tensors = {}
    for path, leaf in flatten_dict(params).items():
        array = np.asarray(leaf, np.float32)
        stacked = path[0] == "layers"
        for layer, piece in enumerate(array if stacked else array[None]):
            piece = piece.reshape(_flat(path, piece.shape))
            name = NAMES[path].format(layer) if stacked else NAMES[path]
            tensors[name] = np.ascontiguousarray(piece.T if path[-1] == "kernel" else piece)
    return tensors


def _flat(path, shape):
    """A kernel's shape as [in, out], a bias's as [out]; only attention's output has two input axes."""
    inputs = {"kernel": 2 if path[-2:-1] == ("out",) else 1, "bias": 0}.get(path[-1])
    if inputs is None:
        return tuple(shape)
    out = int(np.prod(shape[inputs:]))
    return (int(np.prod(shape[:inputs])), out) if inputs else (out,)


def _read_tensors(directory):
    index = directory / "model.safetensors.index.json"
    shards = sorted(set(_read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    tensors = {}
    for shard in shards:
        path = directory / shard
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        try:
            with safe_open(path, framework="numpy") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise UserError(f"{path}: damaged ({error})") from None
    return tensors


def _special_ids(directory):
    """(end ids, pad id) of generation_config.json, else of config.json; the first end id pads where none is named."""
    path = directory / "generation_config.json"
    contents = _read_json(directory / "config.json") | (_read_json(path) if path.is_file() else {})
    ends = contents.get("eos_token_id")
    ends = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
    pad = contents.get("pad_token_id")
    return ends, pad if pad is not None else (ends[0] if ends else 0)


def _load_tokenizer(directory):
    from transformers import AutoTokenizer  # here, because it takes seconds and most users of models never need it

    if not any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise UserError(f"{directory}: no tokenizer.json")
    return AutoTokenizer.from_pretrained(str(directory))


def _biases(attention_bias, *, qk_norm):
    return dict(bias=attention_bias, out_bias=attention_bias, qk_norm=qk_norm)


def _read_json(path):
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON (line {error.lineno}: {error.msg})") from None


def _write_json(path, contents):
    path.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
