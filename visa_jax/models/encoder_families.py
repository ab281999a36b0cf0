"""What sets each Hugging Face family of encoders apart: how its config.json reads and how its tensors are called.

``ENCODER_FAMILIES`` has a row per model_type, as ``families.FAMILIES`` has for decoders.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from visa_jax.config import UserError
from visa_jax.models.encoder import EncoderConfig
from visa_jax.models.encoder_layers import Relative
from visa_jax.models.layout import Path, Slot

Fields = dict[str, Any]


class EncoderFamily(NamedTuple):
    """One model_type. Heads may stand outside of ``base``."""

    name: str  # architectures are this and Model, or ForSequenceClassification
    base: str  # prefix of the bare model's tensors in a file with a head; files of the bare model leave it out
    slots: dict[Path, Slot]  # of the bare model without a pooler
    pooler: dict[Path, Slot]  # of the bare model; {} where it has none
    head: dict[Path, Slot]  # of the classifier: pooler and classifier
    pooled: str  # activation of the pooler, in both
    read: Callable[[Fields], Fields]  # contents of config.json -> fields of EncoderConfig; KeyError: one is missing
    write: Callable[[EncoderConfig], Fields]  # what config.json has beside model_type, architectures and labels
    refused: dict[str, tuple]  # field of config.json -> values that mean what the encoder does


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
BERT_LAYER = {
    ("attention", "query"): "attention.self.query",
    ("attention", "key"): "attention.self.key",
    ("attention", "value"): "attention.self.value",
    ("attention", "out"): "attention.output.dense",
    ("attention_norm",): "attention.output.LayerNorm",
    ("mlp", "up"): "intermediate.dense",
    ("mlp", "down"): "output.dense",
    ("mlp_norm",): "output.LayerNorm",
}
DISTILBERT_LAYER = {
    ("attention", "query"): "attention.q_lin",
    ("attention", "key"): "attention.k_lin",
    ("attention", "value"): "attention.v_lin",
    ("attention", "out"): "attention.out_lin",
    ("attention_norm",): "sa_layer_norm",
    ("mlp", "up"): "ffn.lin1",
    ("mlp", "down"): "ffn.lin2",
    ("mlp_norm",): "output_layer_norm",
}
DEBERTA_LAYER = BERT_LAYER | {
    ("attention", "query"): "attention.self.query_proj",
    ("attention", "key"): "attention.self.key_proj",
    ("attention", "value"): "attention.self.value_proj",
    ("attention", "relative_key"): "attention.self.pos_key_proj",
    ("attention", "relative_query"): "attention.self.pos_query_proj",
}


def _maps(names: dict[Path, str]) -> dict[Path, Slot]:
    """Weight and bias of each linear map or norm."""
    slots = {}
    for path, name in names.items():
        leaf = "scale" if path[-1].endswith("norm") else "kernel"
        slots |= {(*path, leaf): Slot(f"{name}.weight"), (*path, "bias"): Slot(f"{name}.bias")}
    return slots


def _slots(base: str, layers: str, layer: dict[Path, str]) -> dict[Path, Slot]:
    """Embeddings, which are called alike everywhere, and ``layers`` of them."""
    embeddings = {
        ("embedding",): Slot(f"{base}embeddings.word_embeddings.weight"),
        ("positions",): Slot(f"{base}embeddings.position_embeddings.weight"),
        ("types",): Slot(f"{base}embeddings.token_type_embeddings.weight"),
    }
    stacked = {("layers", *path): f"{base}{layers}.{{}}.{name}" for path, name in layer.items()}
    return embeddings | _maps({("norm",): f"{base}embeddings.LayerNorm"} | stacked)


def _deberta_slots() -> dict[Path, Slot]:
    encoder = "deberta.encoder"
    more = {
        ("relative",): Slot(f"{encoder}.rel_embeddings.weight"),
        ("conv", "weight"): Slot(f"{encoder}.conv.conv.weight"),
        ("conv", "bias"): Slot(f"{encoder}.conv.conv.bias"),
    }
    norms = {("relative_norm",): f"{encoder}.LayerNorm", ("conv", "norm"): f"{encoder}.conv.LayerNorm"}
    return _slots("deberta.", "encoder.layer", DEBERTA_LAYER) | more | _maps(norms)


def _head(pooler: str, classifier: str) -> dict[Path, Slot]:
    return _maps({("pooler",): pooler, ("classifier",): classifier})


def _activation(c: Fields, field: str, default: str) -> str:
    name = c.get(field) or default
    if name not in ACTIVATIONS:
        raise UserError(f"{field} = {name!r} is not supported ({', '.join(ACTIVATIONS)} are)")
    return ACTIVATIONS[name]


def _theirs(activation: str) -> str:
    return {"gelu_tanh": "gelu_new"}.get(activation, activation)


def _read_bert(c: Fields, **more) -> Fields:
    return dict(
        vocab_size=c["vocab_size"],
        width=c["hidden_size"],
        layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        mlp_width=c["intermediate_size"],
        max_length=c["max_position_embeddings"],
        types=c.get("type_vocab_size", 2),
        norm_eps=c.get("layer_norm_eps", 1e-12),
        activation=_activation(c, "hidden_act", "gelu"),
    ) | more


def _write_bert(config: EncoderConfig, **more) -> Fields:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_length + config.position_offset,
        "type_vocab_size": config.types,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": _theirs(config.activation),
    } | more


def _read_roberta(c: Fields) -> Fields:
    """Its places begin behind that of padding."""
    offset = c.get("pad_token_id", 1) + 1
    return _read_bert(c, position_offset=offset, max_length=c["max_position_embeddings"] - offset)


def _write_roberta(config: EncoderConfig) -> Fields:
    return _write_bert(config, pad_token_id=config.position_offset - 1)


def _read_distilbert(c: Fields) -> Fields:
    return dict(
        vocab_size=c["vocab_size"],
        width=c["dim"],
        layers=c["n_layers"],
        heads=c["n_heads"],
        mlp_width=c["hidden_dim"],
        max_length=c["max_position_embeddings"],
        activation=_activation(c, "activation", "gelu"),
    )


def _write_distilbert(config: EncoderConfig) -> Fields:
    return {
        "vocab_size": config.vocab_size,
        "dim": config.width,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "hidden_dim": config.mlp_width,
        "max_position_embeddings": config.max_length,
        "activation": _theirs(config.activation),
    }


def _read_deberta(c: Fields) -> Fields:
    relative = None
    kinds = c.get("pos_att_type") or []
    kinds = [kind.strip() for kind in kinds.lower().split("|")] if isinstance(kinds, str) else kinds
    if c.get("relative_attention", False):
        furthest = c.get("max_relative_positions", -1)
        relative = Relative(
            furthest=furthest if furthest > 0 else c["max_position_embeddings"],
            buckets=max(c.get("position_buckets", -1), 0),
            kinds=tuple(sorted(kinds)),
            shared=bool(c.get("share_att_key", False)),
            norm="layer_norm" in [name.strip() for name in c.get("norm_rel_ebd", "none").lower().split("|")],
        )
    elif kinds:
        raise UserError(f"pos_att_type = {kinds!r} is not supported without relative_attention")
    for name in ("embedding_size", "pooler_hidden_size"):
        if c.get(name, c["hidden_size"]) != c["hidden_size"]:
            raise UserError(f"{name} = {c[name]} is not supported (hidden_size is)")
    if _activation(c, "pooler_hidden_act", "gelu") != "gelu":
        raise UserError(f"pooler_hidden_act = {c['pooler_hidden_act']!r} is not supported (gelu is)")
    conv = max(c.get("conv_kernel_size") or 0, 0)
    return _read_bert(
        c,
        types=c.get("type_vocab_size", 0),
        norm_eps=c.get("layer_norm_eps", 1e-7),
        absolute=bool(c.get("position_biased_input", True)),
        relative=relative,
        conv_width=conv,
        **(dict(conv_activation=_activation(c, "conv_act", "tanh")) if conv else {}),
    )


def _write_deberta(config: EncoderConfig) -> Fields:
    written = _write_bert(config, position_biased_input=config.absolute, relative_attention=False)
    written |= {"pooler_hidden_size": config.width, "pooler_hidden_act": "gelu"}
    if config.conv_width:
        written |= {"conv_kernel_size": config.conv_width, "conv_act": _theirs(config.conv_activation)}
    if config.relative is None:
        return written
    return written | {
        "relative_attention": True,
        "max_relative_positions": config.relative.furthest,
        "position_buckets": config.relative.buckets or -1,
        "pos_att_type": list(config.relative.kinds),
        "share_att_key": config.relative.shared,
        "norm_rel_ebd": "layer_norm" if config.relative.norm else "none",
    }


PLAIN = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (),
}


def _roberta(name: str) -> EncoderFamily:
    return EncoderFamily(
        name,
        "roberta.",
        _slots("roberta.", "encoder.layer", BERT_LAYER),
        _maps({("pooler",): "roberta.pooler.dense"}),
        _head("classifier.dense", "classifier.out_proj"),
        "tanh",
        _read_roberta,
        _write_roberta,
        PLAIN,
    )


ENCODER_FAMILIES = {
    "bert": EncoderFamily(  # MiniLM, too
        "Bert",
        "bert.",
        _slots("bert.", "encoder.layer", BERT_LAYER),
        _maps({("pooler",): "bert.pooler.dense"}),
        _head("bert.pooler.dense", "classifier"),
        "tanh",
        _read_bert,
        _write_bert,
        PLAIN,
    ),
    "roberta": _roberta("Roberta"),
    "xlm-roberta": _roberta("XLMRoberta"),
    "distilbert": EncoderFamily(
        "DistilBert",
        "distilbert.",
        _slots("distilbert.", "transformer.layer", DISTILBERT_LAYER),
        {},
        _head("pre_classifier", "classifier"),
        "relu",
        _read_distilbert,
        _write_distilbert,
        PLAIN,
    ),
    "deberta-v2": EncoderFamily(  # v3, too
        "DebertaV2",
        "deberta.",
        _deberta_slots(),
        {},
        _head("pooler.dense", "classifier"),
        "gelu",
        _read_deberta,
        _write_deberta,
        PLAIN | {"attention_head_size": (), "conv_groups": (1,)},
    ),
}
