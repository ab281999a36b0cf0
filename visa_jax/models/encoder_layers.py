"""The parts of an encoder block: attention both ways, with or without relative positions, norms behind what is added."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from visa_jax.config import require
from visa_jax.models.layers import MASKED, Linear, Norm, declare
from visa_jax.types import Array

STD = 0.02  # of new weights: Devlin et al. 2019's published code
ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
KINDS = ("c2p", "p2c")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relative:
    """Disentangled attention: scores between contents and relative positions (He et al. 2021, section 3.1).

    ``span`` vectors stand for distances to each side. Without buckets a distance beyond ``furthest`` counts as that.
    """

    furthest: int  # tokens; with buckets: what the last of them begins at
    buckets: int = 0  # to each side; half of them are for one distance each, the others grow by a factor; 0 = none
    kinds: tuple[str, ...] = KINDS  # c2p: content looks for position, p2c: position looks for content
    shared: bool = True  # projected by the content's own maps
    norm: bool = True  # the vectors are normalised

    def __post_init__(self):
        require(self.furthest > 0, "relative.furthest", f"must be positive, not {self.furthest}")
        require(self.buckets >= 0 and self.buckets != 1, "relative.buckets", f"must be 0 or above 1, not {self.buckets}")
        growing = not self.buckets or self.furthest - 1 > self.buckets // 2
        require(growing, "relative.furthest", f"{self.furthest} is too near for {self.buckets} buckets")
        known = set(self.kinds) <= set(KINDS) and len(set(self.kinds)) == len(self.kinds)
        require(known, "relative.kinds", f"{self.kinds!r} is not made of {', '.join(KINDS)}")

    @property
    def span(self) -> int:
        """Vectors to each side."""
        return self.buckets or self.furthest


def bucket_of(distance: np.ndarray, relative: Relative) -> np.ndarray:
    """Signed bucket of signed distances (DeBERTa-v2's published code); the distance itself without buckets.

    With m = buckets/2: d up to m, beyond that m + ceil((m - 1) · log(d/m) / log((furthest - 1)/m)), and d's sign.
    In float32 as in transformers: the last digit decides where a bucket begins.
    """
    if not relative.buckets:
        return distance
    middle, size = relative.buckets // 2, np.abs(distance)
    near = size <= middle
    far = np.where(near, middle, size).astype(np.float32) / np.float32(middle)
    turns = np.log(far) / np.log(np.float32((relative.furthest - 1) / middle))
    bucket = np.ceil(turns * np.float32(middle - 1)).astype(np.int64) + middle
    return np.where(near, distance, np.sign(distance) * bucket)


def relative_index(length: int, relative: Relative) -> Array:
    """int [T, T]: the row of the 2 · span vectors that stands for query t and key s.

    Columns are counted and not tokens: padding on either side moves both alike.
    """
    distance = np.arange(1 - length, length)
    row = np.clip(bucket_of(distance, relative) + relative.span, 0, 2 * relative.span - 1).astype(np.int32)
    column = jnp.arange(length)
    return jnp.asarray(row)[column[:, None] - column[None, :] + length - 1]


class EncoderAttention(nnx.Module):
    """Every valid token attends to every valid token."""

    def __init__(self, config):
        width, heads, head_dim, relative = config.width, config.heads, config.head_dim, config.relative
        into = dict(shape=(width, heads, head_dim), axes=("embed", "heads", "head_dim"), inputs=1, bias=True, std=STD)
        self.query, self.key, self.value = Linear(**into), Linear(**into), Linear(**into)
        apart = () if relative is None or relative.shared else relative.kinds
        self.relative_key = Linear(**into) if "c2p" in apart else None
        self.relative_query = Linear(**into) if "p2c" in apart else None
        back = dict(shape=(heads, head_dim, width), axes=("heads", "head_dim", "embed"))
        self.out = Linear(**back, inputs=2, bias=True, std=STD)
        self.relative = relative

    def __call__(self, x_BTD: Array, bias_BT: Array, vectors_RD: Array | None, index_TT: Array | None) -> Array:
        """[B, T, D]. ``bias_BT`` is 0 at keys that count; vectors and index are those of relative positions."""
        query, key, value = self.query(x_BTD), self.key(x_BTD), self.value(x_BTD)
        scores = jnp.einsum("bthc,bshc->bhts", query, key, preferred_element_type=jnp.float32)
        terms = 1
        if self.relative is not None:
            scores, terms = scores + self._positions(query, key, vectors_RD, index_TT), 1 + len(self.relative.kinds)
        scores = scores / (query.shape[-1] * terms) ** 0.5 + bias_BT[:, None, None, :]
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        return self.out(jnp.einsum("bhts,bshc->bthc", weights, value))

    def _positions(self, query, key, vectors_RD, index_TT):
        """He et al. 2021, equation 4: query · key of the distance + key · query of the distance."""
        score, index = 0.0, index_TT[None, None]
        if "c2p" in self.relative.kinds:
            position = (self.relative_key or self.key)(vectors_RD)
            found = jnp.einsum("bthc,rhc->bhtr", query, position, preferred_element_type=jnp.float32)
            score += jnp.take_along_axis(found, index, axis=-1)
        if "p2c" in self.relative.kinds:
            position = (self.relative_query or self.query)(vectors_RD)
            found = jnp.einsum("bshc,rhc->bhsr", key, position, preferred_element_type=jnp.float32)
            score += jnp.take_along_axis(found, index.swapaxes(2, 3), axis=-1).swapaxes(2, 3)
        return score


class EncoderMlp(nnx.Module):
    """down(act(up(x)))."""

    def __init__(self, config):
        width, hidden = config.width, config.mlp_width
        self.up = Linear((width, hidden), ("embed", "mlp"), inputs=1, bias=True, std=STD)
        self.down = Linear((hidden, width), ("mlp", "embed"), inputs=1, bias=True, std=STD)
        self.act_fn = ACTIVATIONS[config.activation]

    def __call__(self, x: Array) -> Array:
        return self.down(self.act_fn(self.up(x)))


class EncoderBlock(nnx.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)) (Vaswani et al. 2017)."""

    def __init__(self, config):
        self.attention, self.mlp = EncoderAttention(config), EncoderMlp(config)
        self.attention_norm = Norm(config.width, config.norm_eps, kind="layer")
        self.mlp_norm = Norm(config.width, config.norm_eps, kind="layer")

    def __call__(self, x_BTD: Array, bias_BT: Array, vectors_RD: Array | None, index_TT: Array | None) -> Array:
        x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, bias_BT, vectors_RD, index_TT))
        return self.mlp_norm(x_BTD + self.mlp(x_BTD))


class Convolution(nnx.Module):
    """norm(y + act(convolution of x over neighbouring tokens)), DeBERTa-v2's addition to its first block."""

    def __init__(self, config):
        shape = (config.width, config.width, config.conv_width)
        self.weight = declare(shape, ("embed_out", "embed", "neighbours"), std=STD)
        self.bias = declare((config.width,), ("embed",))
        self.norm = Norm(config.width, config.norm_eps, kind="layer")
        self.act_fn = ACTIVATIONS[config.conv_activation]

    def __call__(self, x_BTD: Array, y_BTD: Array, mask_BT: Array) -> Array:
        """``x_BTD`` goes into the block and ``y_BTD`` comes out of it; padding counts as zeros, like the ends."""
        x_BTD = jnp.where(mask_BT[..., None], x_BTD, 0)
        weight, order = self.weight[...].astype(x_BTD.dtype), ("NWC", "OIW", "NWC")
        out_BTD = jax.lax.conv_general_dilated(x_BTD, weight, (1,), "SAME", dimension_numbers=order)
        return self.norm(y_BTD + self.act_fn(out_BTD + self.bias[...].astype(x_BTD.dtype)[None, None, :]))


def key_bias(mask_BT: Array) -> Array:
    """float32 [B, T]: 0 at tokens that count, MASKED elsewhere."""
    return jnp.where(mask_BT, 0.0, MASKED).astype(jnp.float32)
