"""What sets each Hugging Face family of decoders apart: how its config.json reads and how its tensors are called.

``FAMILIES`` has a row per model_type. A row reads a config.json into fields of DecoderConfig and writes it back, and
names the tensor behind each of our parameters; the decoder itself is one for all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from visa_jax.config import UserError
from visa_jax.models.decoder import DecoderConfig
from visa_jax.models.layers import RopeScaling
from visa_jax.models.layout import Path, Slot

Fields = dict[str, Any]


class Family(NamedTuple):
    """One model_type."""

    architecture: str
    base: str  # prefix that all tensors but the output's have; files of the bare model leave it out
    slots: dict[Path, Slot]
    read: Callable[[Fields], Fields]  # contents of config.json -> fields of DecoderConfig; KeyError: one is missing
    write: Callable[[DecoderConfig], Fields]  # what config.json has beside model_type and architectures
    refused: dict[str, tuple]  # field of config.json -> values that mean what the decoder does
    classifier: str = ""  # architecture with classes; "" = that of the writer, by another end


# model_type of text with pictures -> the family of its text decoder, and what its text_config leaves unsaid
MULTIMODAL = {"gemma3": "gemma3_text"}
TEXT_DEFAULTS = dict(  # transformers' Gemma3TextConfig
    vocab_size=262208,
    hidden_size=2304,
    intermediate_size=9216,
    num_hidden_layers=26,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
    max_position_embeddings=131072,
)
OUTPUT = "lm_head.weight"
# where the text decoder is in a multimodal file -> where its output is: as published, and as transformers holds it
WRAPPED = {"language_model.model.": f"language_model.{OUTPUT}", "model.language_model.": OUTPUT}
VISION = tuple(f"{base}{part}." for base in ("", "model.") for part in ("vision_tower", "multi_modal_projector"))

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
ATTENTION = {
    ("attention", name, leaf): f"self_attn.{short}_proj.{tensor}"
    for name, short in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))
    for leaf, tensor in (("kernel", "weight"), ("bias", "bias"))
} | {("attention", f"{name}_norm", "scale"): f"self_attn.{name[0]}_norm.weight" for name in ("query", "key")}
MLP = {
    ("mlp", name, leaf): f"mlp.{name}_proj.{tensor}"
    for name in ("gate", "up", "down")
    for leaf, tensor in (("kernel", "weight"), ("bias", "bias"))
}
NORMS = {
    ("attention_norm", "scale"): "input_layernorm.weight",
    ("mlp_norm", "scale"): "post_attention_layernorm.weight",
}
GEMMA_NORMS = {
    ("attention_norm", "scale"): "input_layernorm.weight",
    ("attention_post_norm", "scale"): "post_attention_layernorm.weight",
    ("mlp_norm", "scale"): "pre_feedforward_layernorm.weight",
    ("mlp_post_norm", "scale"): "post_feedforward_layernorm.weight",
}


def text_fields(c: Fields) -> Fields:
    """What a config.json says of the language model: of a multimodal one its text_config. KeyError without that."""
    if c.get("model_type") not in MULTIMODAL:
        return c
    return TEXT_DEFAULTS | c["text_config"] | {"model_type": MULTIMODAL[c["model_type"]]}


def _llama_slots(norms: dict[Path, str] = NORMS) -> dict[Path, Slot]:
    layer = {("layers", *path): Slot(f"model.layers.{{}}.{name}") for path, name in (ATTENTION | MLP | norms).items()}
    return layer | {
        ("embedding",): Slot("model.embed_tokens.weight"),
        ("norm", "scale"): Slot("model.norm.weight"),
        ("output", "kernel"): Slot(OUTPUT),
    }


def _gpt2_slots() -> dict[Path, Slot]:
    slots = {
        ("embedding",): Slot("transformer.wte.weight"),
        ("positions",): Slot("transformer.wpe.weight"),
        ("norm", "scale"): Slot("transformer.ln_f.weight"),
        ("norm", "bias"): Slot("transformer.ln_f.bias"),
        ("output", "kernel"): Slot("lm_head.weight"),
    }
    for norm, name in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
        for leaf, tensor in (("scale", "weight"), ("bias", "bias")):
            slots["layers", norm, leaf] = Slot(f"transformer.h.{{}}.{name}.{tensor}")
    for leaf, tensor in (("kernel", "weight"), ("bias", "bias")):
        for part, name in enumerate(("query", "key", "value")):
            slots["layers", "attention", name, leaf] = Slot(
                f"transformer.h.{{}}.attn.c_attn.{tensor}", turned=False, part=part, parts=3
            )
        for path, name in (
            (("attention", "out"), "attn.c_proj"),
            (("mlp", "up"), "mlp.c_fc"),
            (("mlp", "down"), "mlp.c_proj"),
        ):
            slots["layers", *path, leaf] = Slot(f"transformer.h.{{}}.{name}.{tensor}", turned=False)
    return slots


def _read_llama(c: Fields, **more) -> Fields:
    """What all families with Llama's field names share. Their attention_bias means all four projections."""
    heads, attention_bias = c["num_attention_heads"], bool(c.get("attention_bias", False))
    return dict(
        vocab_size=c["vocab_size"],
        width=c["hidden_size"],
        layers=c["num_hidden_layers"],
        heads=heads,
        kv_heads=c.get("num_key_value_heads") or heads,
        head_dim=c.get("head_dim") or c["hidden_size"] // heads,
        mlp_width=c["intermediate_size"],
        norm_eps=c.get("rms_norm_eps", 1e-6),
        tie_embeddings=c.get("tie_word_embeddings", False),
        max_length=c["max_position_embeddings"],
        bias=attention_bias,
        out_bias=attention_bias,
        activation=_read_activation("hidden_act", c.get("hidden_activation") or c.get("hidden_act", "silu")),
    ) | (more if "rope_theta" in more else _read_rope(c) | more)


def _write_llama(config: DecoderConfig, **more) -> Fields:
    rope = _write_rope(config.rope_theta, config.rope_scaling)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "hidden_act": {"gelu_tanh": "gelu_pytorch_tanh"}.get(config.activation, config.activation),
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        "rope_scaling": None if config.rope_scaling is None else rope,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.bias,
    } | more


def _read_activation(field: str, name: str) -> str:
    if name not in ACTIVATIONS:
        raise UserError(f"{field} = {name!r} is not supported ({', '.join(ACTIVATIONS)} are)")
    return ACTIVATIONS[name]


def _read_rope(c: Fields) -> Fields:
    """rope_theta and rope_scaling; the older and the newer way of writing them."""
    given = c.get("rope_scaling") or c.get("rope_parameters") or {}
    theta = float(given.get("rope_theta") or c.get("rope_theta") or 10_000.0)
    return dict(rope_theta=theta, rope_scaling=_rope_scaling(given))


def _rope_scaling(given: Fields) -> RopeScaling | None:
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "default":
        return None
    fields = dict(factor="factor")
    if kind == "llama3":
        fields |= dict(low_freq_factor="low_freq_factor", high_freq_factor="high_freq_factor")
        fields["original_length"] = "original_max_position_embeddings"
    elif kind != "linear":
        raise UserError(f"rope_scaling = {given!r} is not supported (default, linear, llama3 are)")
    missing = [name for name in fields.values() if name not in given]
    if missing:
        raise UserError(f"rope_scaling = {given!r} has no {missing[0]}")
    return RopeScaling(kind=kind, **{field: given[name] for field, name in fields.items()})


def _write_rope(theta: float, scaling: RopeScaling | None) -> Fields:
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    written = {"rope_type": scaling.kind, "rope_theta": theta, "factor": scaling.factor}
    if scaling.kind == "llama3":
        written["low_freq_factor"] = scaling.low_freq_factor
        written["high_freq_factor"] = scaling.high_freq_factor
        written["original_max_position_embeddings"] = scaling.original_length
    return written


def _read_window(c: Fields, local: Callable[[int], bool], default: int | None = None) -> Fields:
    """window and local_layers; ``local(layer)`` where config.json has no layer_types."""
    layers, window = c["num_hidden_layers"], c.get("sliding_window", default)
    kinds = c.get("layer_types") or [
        "sliding_attention" if local(layer) else "full_attention" for layer in range(layers)
    ]
    unknown = sorted(set(kinds) - {"sliding_attention", "full_attention"})
    if unknown:
        raise UserError(f"layer_types: {unknown[0]!r} is not supported")
    flags = tuple(kind == "sliding_attention" for kind in kinds)
    return dict(window=window, local_layers=flags) if window and any(flags) else {}


def _write_window(config: DecoderConfig) -> Fields:
    kinds = ["sliding_attention" if config.is_local(layer) else "full_attention" for layer in range(config.layers)]
    return {"sliding_window": config.window, "layer_types": kinds}


def _read_mistral(c: Fields) -> Fields:
    window = c.get("sliding_window", 4096)
    return _read_llama({**c, "attention_bias": False}, **(dict(window=window) if window else {}))


def _read_qwen2(c: Fields) -> Fields:
    return _read_llama({**c, "attention_bias": False}, **_read_qwen_window(c)) | dict(bias=True)


def _read_qwen_window(c: Fields) -> Fields:
    if not c.get("use_sliding_window", False):
        return {}
    return _read_window(c, lambda layer: layer >= c.get("max_window_layers", 28), default=4096)


def _write_qwen(config: DecoderConfig) -> Fields:
    windows = any(map(config.is_local, range(config.layers)))
    return _write_llama(config, use_sliding_window=windows, **_write_window(config))


def _read_gemma(c: Fields, **more) -> Fields:
    act = c.get("hidden_activation") or "gelu_pytorch_tanh"
    fields = _read_llama({**c, "hidden_activation": act}, **more) | dict(
        norm="rms_plus_one",
        post_norms=True,
        scale_embedding=True,
        head_dim=c.get("head_dim", 256),
        query_scalar=c.get("query_pre_attn_scalar", 256),
        tie_embeddings=c.get("tie_word_embeddings", True),
    )
    return fields | {"query_scalar": None if fields["query_scalar"] == fields["head_dim"] else fields["query_scalar"]}


def _read_gemma2(c: Fields) -> Fields:
    return _read_gemma(
        c,
        attention_cap=c.get("attn_logit_softcapping", 50.0),
        logit_cap=c.get("final_logit_softcapping", 30.0),
        **_read_window(c, lambda layer: layer % 2 == 0, default=4096),
    )


def _read_gemma3(c: Fields) -> Fields:
    """Local layers have a rope base of their own; five of them stand before each other one."""
    both = c.get("rope_parameters") or {}
    wide, near = dict(both.get("full_attention") or {}), both.get("sliding_attention") or {}
    wide |= c.get("rope_scaling") or {}
    windows = _read_window(c, lambda layer: (layer + 1) % c.get("sliding_window_pattern", 6) != 0, default=4096)
    if _rope_scaling(near) is not None:
        raise UserError(f"rope_parameters.sliding_attention = {near!r} is not supported")
    ropes = dict(
        rope_theta=float(wide.get("rope_theta") or c.get("rope_theta") or 1_000_000.0),
        rope_scaling=_rope_scaling(wide),
    )
    if windows:
        ropes["local_rope_theta"] = float(near.get("rope_theta") or c.get("rope_local_base_freq") or 10_000.0)
    return _read_gemma(c, qk_norm=True, logit_cap=c.get("final_logit_softcapping"), **ropes, **windows)


def _write_gemma(config: DecoderConfig, **more) -> Fields:
    written = _write_llama(config) | _write_window(config)
    return written | {
        "hidden_activation": written["hidden_act"],
        "query_pre_attn_scalar": config.query_scalar or config.head_dim,
        "attn_logit_softcapping": config.attention_cap,
        "final_logit_softcapping": config.logit_cap,
        **more,
    }


def _write_gemma3(config: DecoderConfig) -> Fields:
    near, scaling = config.local_rope_theta or 10_000.0, config.rope_scaling
    ropes = {
        "full_attention": _write_rope(config.rope_theta, scaling),
        "sliding_attention": _write_rope(near, None),
    }
    return _write_gemma(config, rope_parameters=ropes, rope_local_base_freq=near)


def _read_gpt2(c: Fields) -> Fields:
    return dict(
        vocab_size=c["vocab_size"],
        width=c["n_embd"],
        layers=c["n_layer"],
        heads=c["n_head"],
        kv_heads=c["n_head"],
        head_dim=c["n_embd"] // c["n_head"],
        mlp_width=c.get("n_inner") or 4 * c["n_embd"],
        max_length=c["n_positions"],
        norm_eps=c.get("layer_norm_epsilon", 1e-5),
        norm="layer",
        positions="learned",
        activation=_read_activation("activation_function", c.get("activation_function", "gelu_new")),
        gated=False,
        bias=True,
        out_bias=True,
        mlp_bias=True,
        tie_embeddings=c.get("tie_word_embeddings", True),
    )


def _write_gpt2(config: DecoderConfig) -> Fields:
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "n_positions": config.max_length,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": "gelu_new",
        "tie_word_embeddings": config.tie_embeddings,
    }


PLAIN = {"partial_rotary_factor": (1, 1.0), "quantization_config": ()}
FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        "model.",
        _llama_slots(),
        lambda c: _read_llama(c, mlp_bias=bool(c.get("mlp_bias", False))),
        lambda config: _write_llama(config, mlp_bias=config.mlp_bias),
        PLAIN,
    ),
    "mistral": Family(
        "MistralForCausalLM",
        "model.",
        _llama_slots(),
        _read_mistral,
        lambda config: _write_llama(config, sliding_window=config.window),
        PLAIN,
    ),
    "qwen2": Family("Qwen2ForCausalLM", "model.", _llama_slots(), _read_qwen2, _write_qwen, PLAIN),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        "model.",
        _llama_slots(),
        lambda c: _read_llama(c, qk_norm=True, **_read_qwen_window(c)),
        _write_qwen,
        PLAIN,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        "model.",
        _llama_slots(GEMMA_NORMS),
        _read_gemma2,
        _write_gemma,
        PLAIN | {"use_bidirectional_attention": (False,)},
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        "model.",
        _llama_slots(GEMMA_NORMS),
        _read_gemma3,
        _write_gemma3,
        # attention is not capped there, whatever the field says
        PLAIN | {"use_bidirectional_attention": (False,), "attn_logit_softcapping": ()},
        "Gemma3TextForSequenceClassification",  # that of Gemma3 without Text sees pictures
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        "transformer.",
        _gpt2_slots(),
        _read_gpt2,
        _write_gpt2,
        {
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
            "quantization_config": (),
        },
    ),
}
