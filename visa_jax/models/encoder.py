"""Encoders (BERT, RoBERTa, DistilBERT, DeBERTa and their kin) as a Flax NNX module, used as pure functions.

1 ``EncoderConfig``    what it is made of
2 ``Encoder``          the module; layers are stacked on a leading axis
3 ``make_encoder``     splits the module once: hidden states; ``make_classifier``: logits of classes

Padding changes nothing, on either side: positions count valid tokens, and what pools reads the first valid token.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from visa_jax.config import UserError, require
from visa_jax.models.cache import positions
from visa_jax.models.encoder_layers import (
    ACTIVATIONS,
    STD,
    Convolution,
    EncoderBlock,
    Relative,
    key_bias,
    relative_index,
)
from visa_jax.models.layers import Linear, Norm, declare, draw_params
from visa_jax.types import Array

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes and choices of an encoder. Raises UserError naming the field for an impossible one."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    max_length: int  # tokens of a text (without absolute positions there is no limit, and this one is kept only)
    position_offset: int = 0  # rows of the table of positions that stand before the first token's (RoBERTa)
    absolute: bool = True  # a vector per place is added to the embedding
    types: int = 0  # kinds of tokens (first text, second text), each with a vector; 0 = none
    norm_eps: float = 1e-12
    activation: str = "gelu"
    relative: Relative | None = None  # relative positions (DeBERTa)
    conv_width: int = 0  # tokens that a convolution beside the first block sees; 0 = none
    conv_activation: str = "tanh"
    pooler: str | None = None  # activation of a linear map of the first token's state; None = no such map
    classes: int = 0  # outputs of a linear map behind the pooler; 0 = none
    dtype: str = "float32"  # of the computation; parameters may have another

    def __post_init__(self):
        for name in ("vocab_size", "width", "layers", "heads", "mlp_width", "max_length", "norm_eps"):
            require(getattr(self, name) > 0, name, f"must be positive, not {getattr(self, name)}")
        for name in ("position_offset", "types", "classes", "conv_width"):
            require(getattr(self, name) >= 0, name, f"must be 0 or more, not {getattr(self, name)}")
        require(self.width % self.heads == 0, "heads", f"{self.heads} must divide width = {self.width}")
        odd = not self.conv_width or self.conv_width % 2 == 1
        require(odd, "conv_width", f"must be odd, not {self.conv_width}")
        require(self.pooler is not None or not self.classes, "classes", "need a pooler")
        for name in ("activation", "conv_activation", "pooler"):
            known = getattr(self, name) in ACTIVATIONS or (name == "pooler" and self.pooler is None)
            require(known, name, f"{getattr(self, name)!r} is none of {', '.join(ACTIVATIONS)}")
        require(self.dtype in DTYPES, "dtype", f"{self.dtype!r} is none of {', '.join(DTYPES)}")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.width // self.heads


class Encoder(nnx.Module):
    """Embeddings and their norm, ``layers`` blocks stacked on a leading axis, pooler and classifier if there are any."""

    def __init__(self, config: EncoderConfig):
        self.config, width = config, config.width
        self.embedding = declare((config.vocab_size, width), ("vocab", "embed"), std=STD)
        if config.absolute:
            rows = config.max_length + config.position_offset
            self.positions = declare((rows, width), ("positions", "embed"), std=STD)
        if config.types:
            self.types = declare((config.types, width), ("types", "embed"), std=STD)
        self.norm = Norm(width, config.norm_eps, kind="layer")
        self.layers = nnx.vmap(lambda _: EncoderBlock(config))(jnp.arange(config.layers))
        if config.relative is not None:
            self.relative = declare((2 * config.relative.span, width), ("distances", "embed"), std=STD)
            if config.relative.norm:
                self.relative_norm = Norm(width, config.norm_eps, kind="layer")
        if config.conv_width:
            self.conv = Convolution(config)
        if config.pooler is not None:
            self.pooler = Linear((width, width), ("embed", "pooled"), inputs=1, bias=True, std=STD)
        if config.classes:
            self.classifier = Linear((width, config.classes), ("pooled", "classes"), inputs=1, bias=True, std=STD)

    def forward(self, token_BT, mask_BT, type_BT=None):
        """Hidden states [B, T, D] of the last block."""
        bias_BT, vectors_RD, index_TT = key_bias(mask_BT), None, None
        if self.config.relative is not None:
            vectors_RD = self.relative[...].astype(self.config.dtype)
            if self.config.relative.norm:
                vectors_RD = self.relative_norm(vectors_RD)
            index_TT = relative_index(token_BT.shape[1], self.config.relative)
        graph, stacked = nnx.split(self.layers)

        def body(x_BTD, state):
            return nnx.merge(graph, state)(x_BTD, bias_BT, vectors_RD, index_TT), None

        x_BTD = self._embed(token_BT, mask_BT, type_BT)
        if self.config.conv_width:  # the first block by itself
            first_BTD, _ = body(x_BTD, jax.tree.map(lambda leaf: leaf[0], stacked))
            x_BTD, stacked = self.conv(x_BTD, first_BTD, mask_BT), jax.tree.map(lambda leaf: leaf[1:], stacked)
        return jax.lax.scan(body, x_BTD, stacked)[0]

    def pool(self, hidden_BTD, mask_BT):
        """[B, D]: the pooler on the first valid token."""
        first_B = jnp.argmax(mask_BT, axis=1)
        state_BD = jnp.take_along_axis(hidden_BTD, first_B[:, None, None], axis=1)[:, 0]
        return ACTIVATIONS[self.config.pooler](self.pooler(state_BD))

    def classify(self, token_BT, mask_BT, type_BT=None):
        """float32 [B, classes]."""
        hidden_BTD = self.forward(token_BT, mask_BT, type_BT)
        return self.classifier(self.pool(hidden_BTD, mask_BT)).astype(jnp.float32)

    def _embed(self, token_BT, mask_BT, type_BT):
        config, length = self.config, token_BT.shape[1]
        x_BTD = self.embedding[...].astype(config.dtype)[token_BT]
        if config.absolute:
            if length > config.max_length:
                raise UserError(f"texts of {length} tokens are longer than the encoder's {config.max_length}")
            x_BTD = x_BTD + self.positions[...].astype(config.dtype)[positions(mask_BT) + config.position_offset]
        if config.types:
            type_BT = jnp.zeros_like(token_BT) if type_BT is None else type_BT
            x_BTD = x_BTD + self.types[...].astype(config.dtype)[type_BT]
        return self.norm(x_BTD)


def make_encoder(config: EncoderConfig) -> tuple[Callable, Callable]:
    """``(encode, init_fn)`` of an encoder.

    Returns:
        ``encode(params, token_BT, mask_BT, type_BT=None) -> hidden_BTD`` and ``init_fn(key) -> params``, a nested dict
        of float32 arrays whose leaves under ``layers`` have a leading layer axis. ``type_BT`` (0 in the first text, 1
        in the second) counts where the config has types. Raises UserError for texts longer than ``max_length``.
    """
    return _method(config, "forward"), lambda key: draw_params(Encoder(config), key)


def make_classifier(config: EncoderConfig) -> Callable:
    """``classify(params, token_BT, mask_BT, type_BT=None) -> logits`` float32 [B, classes], on ``make_encoder``'s params.

    The first valid token's state, a linear map, an activation (``config.pooler``), a linear map: so do all families.
    """
    require(config.classes > 0, "classes", "an encoder without classes classifies nothing")
    return _method(config, "classify")


def encoder_axes(config: EncoderConfig):
    """A tree like ``params`` whose leaves are tuples of axis names, one per dimension."""
    _, state = nnx.split(_abstract(config))
    leaves = {path: variable.get_metadata()["axes"] for path, variable in nnx.to_flat_state(state)}
    named = {path: ("layers", *axes) if path[0] == "layers" else axes for path, axes in leaves.items()}
    return nnx.traversals.unflatten_mapping(named)


def _method(config, name):
    graph, _ = nnx.split(_abstract(config))

    def call(params, token_BT: Array, mask_BT: Array, type_BT: Array | None = None) -> Array:
        return getattr(nnx.merge(graph, params), name)(token_BT, mask_BT, type_BT)

    return call


def _abstract(config):
    return nnx.eval_shape(lambda: Encoder(config))
