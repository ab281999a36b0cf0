"""Attention over a row's own tokens and over a prefix shared by its group, and the cache of own tokens.

The two sides are scored apart and share one softmax (largest score and denominator are
joined), so that the keys of a prompt are never repeated for its G completions. Either side may be
held in eight bits, a step for each key and each value; it is made dense where it is read, one layer at a time.
"""

import jax
import jax.numpy as jnp

from visa_jax.config import require
from visa_jax.models.layers import MASKED, soft_cap
from visa_jax.models.quantize import Int8, round_to_int8
from visa_jax.parallel import constrain
from visa_jax.types import Prefix

KV_CACHE_DTYPES = ("auto", "int8")  # auto: that of the computation


def causal_bias(mask_BT: jax.Array, causal: bool = True) -> jax.Array:
    """float32 [B, T, S], 0 where token t may see token s, else MASKED.

    A token always sees itself, so that a padding row stays finite and takes nothing from others.
    """
    length = mask_BT.shape[1]
    here = jnp.arange(length)
    seen = mask_BT[:, None, :]
    if causal:
        seen = seen & (here[None, :] <= here[:, None])[None]
    return jnp.where(seen | jnp.eye(length, dtype=bool)[None], 0.0, MASKED)


def windowed(bias, query_position_BT, key_position_BS, window: int):
    """``bias`` [B, T, S] with MASKED where a key stands ``window`` or more tokens before the query."""
    near = query_position_BT[:, :, None] - key_position_BS[:, None, :] < window
    return jnp.where(near, bias, MASKED)


def segments(closes_BT: jax.Array) -> jax.Array:
    """int32 [B, T]: the segment's number, from 0; a token that closes a segment belongs to it."""
    closes_BT = closes_BT.astype(jnp.int32)
    return jnp.cumsum(closes_BT, axis=1) - closes_BT


def same_segment(closes_BT: jax.Array) -> jax.Array:
    """bool [B, T, S]: whether two tokens stand in one segment."""
    segment_BT = segments(closes_BT)
    return segment_BT[:, :, None] == segment_BT[:, None, :]


def positions(mask_BT: jax.Array) -> jax.Array:
    """int32 [B, T]: valid tokens before each token, so that padding on either side changes nothing."""
    return jnp.maximum(jnp.cumsum(mask_BT.astype(jnp.int32), axis=1) - 1, 0)


def attend(query_BTQC, key_BHSC, value_BHSC, bias_BTS, prefix=None, cap: float | None = None):
    """Grouped-query attention over own keys and, if given, a prefix shared by B // N rows.

    Args:
        query_BTQC: queries; query head q reads key head q // (Q / H).
        key_BHSC, value_BHSC: own keys and values, heads first: the layout the matrix products want; arrays or Int8.
        bias_BTS: float32, 0 where seen, MASKED where not; its first two axes may be 1.
        prefix: None or (key_NHLC, value_NHLC, bias_NL), arrays or Int8; where each query sees other keys, bias_BTL.
        cap: soft cap of the scores.

    Returns:
        [B, T, Q, C] in the dtype of the query.
    """
    rows, tokens, heads, size = query_BTQC.shape
    key_BHSC, value_BHSC = (_dense(x, query_BTQC.dtype) for x in (key_BHSC, value_BHSC))
    kv = key_BHSC.shape[1]
    query = (query_BTQC * size**-0.5).reshape(rows, tokens, kv, heads // kv, size).transpose(0, 2, 1, 3, 4)
    if tokens == 1:  # a matrix product of so few rows reads its keys badly: five times as slow on CPU
        own = jnp.sum((query[:, :, 0, :, None] * key_BHSC[:, :, None]).astype(jnp.float32), axis=-1)[:, :, None]
    else:
        own = _scores("bhtrc,bhsc->bhtrs", query, key_BHSC)
    own = soft_cap(own, cap) + bias_BTS[:, None, :, None, :]
    top = jnp.max(own, axis=-1, keepdims=True)  # [B, H, T, R, 1]
    if prefix is not None:
        key_NHLC, value_NHLC = (_dense(x, query.dtype) for x in prefix[:2])
        bias = prefix[2]
        n = key_NHLC.shape[0]
        shared = soft_cap(_scores("nhgtrc,nhlc->nhgtrl", _to_groups(query, n), key_NHLC), cap)
        bias_NGTL = bias[:, None, None, :] if bias.ndim == 2 else bias.reshape(n, rows // n, *bias.shape[1:])
        shared = shared + bias_NGTL[:, None, :, :, None, :]
        top = jnp.maximum(top, _to_rows(jnp.max(shared, axis=-1, keepdims=True)))
    top = jax.lax.stop_gradient(top)
    weight = jnp.exp(own - top)
    total = jnp.sum(weight, axis=-1, keepdims=True)
    out = jnp.einsum("bhtrs,bhsc->bhtrc", weight.astype(value_BHSC.dtype), value_BHSC)
    if prefix is not None:
        weight = jnp.exp(shared - _to_groups(top, n))
        total = total + _to_rows(jnp.sum(weight, axis=-1, keepdims=True))
        out = out + _to_rows(jnp.einsum("nhgtrl,nhlc->nhgtrc", weight.astype(value_NHLC.dtype), value_NHLC))
    out = (out / total).astype(query.dtype)
    return out.transpose(0, 2, 1, 3, 4).reshape(rows, tokens, heads, size)


def heads_first(x):
    """[..., T, H, C] -> [..., H, T, C]."""
    return x.swapaxes(-2, -3)


def prefix_layers(prefix: Prefix):
    """(key_XNHLC, value_XNHLC, bias_XNL): what each layer's ``attend`` reads of a prefix."""
    bias_NL = jnp.where(prefix.mask_NL, 0.0, MASKED)
    layers = prefix.key_XNLHC.shape[0]
    bias_XNL = jnp.broadcast_to(bias_NL[None], (layers, *bias_NL.shape))
    return heads_first(prefix.key_XNLHC), heads_first(prefix.value_XNLHC), bias_XNL


def prefix_lengths(mask_NL: jax.Array, rows: int) -> jax.Array:
    """int32 [B]: valid prompt tokens before each row's completion."""
    length_N = jnp.sum(mask_NL, axis=1, dtype=jnp.int32)
    return jnp.repeat(length_N, rows // length_N.shape[0])


def init_cache(prefix: Prefix, rows: int, length: int, dtype: str = "auto"):
    """One (shared, own) pair per layer: the prefix in ``attend``'s layout, made once, and empty keys and values.

    ``own`` is (key_BHTC, value_BHTC) of the rows' own ``length`` tokens. ``dtype`` "int8" holds both as Int8 with a
    float32 step per head and position: (C + 4) / 4C of the bytes of float32.

    Raises:
        FieldError: naming kv_cache_dtype for one that is none of KV_CACHE_DTYPES.
    """
    known = ", ".join(KV_CACHE_DTYPES)
    require(dtype in KV_CACHE_DTYPES, "kv_cache_dtype", f"{dtype!r} is none of {known}")
    layers, _, _, heads, size = prefix.key_XNLHC.shape
    empty = jnp.zeros((rows, heads, length, size), prefix.key_XNLHC.dtype)
    empty = constrain(empty, "batch", "kv_heads", "length", "head_dim")
    shared = prefix_layers(prefix)
    if dtype == "int8":
        empty, shared = _round(empty), (*(_round(x) for x in shared[:2]), shared[2])
    return tuple((jax.tree.map(lambda leaf, i=layer: leaf[i], shared), (empty, empty)) for layer in range(layers))


def append(own, key_B1HC, value_B1HC, step):
    """Put one token's key and value at ``step``, an int32 or one per row, of a layer's own cache."""

    def put(old, new):
        if jnp.ndim(step) == 0:
            return jax.lax.dynamic_update_slice(old, new, (0, 0, step, 0))
        return old.at[jnp.arange(old.shape[0]), :, step].set(new[:, :, 0])  # a step beyond the cache writes nothing

    new = tuple(heads_first(x) for x in (key_B1HC, value_B1HC))
    return jax.tree.map(put, own, tuple(_round(x) for x in new) if isinstance(own[0], Int8) else new)


def _round(x):
    return round_to_int8(x, (-1,))


def _dense(x, dtype):
    return x.dense().astype(dtype) if isinstance(x, Int8) else x


def _scores(spec, query, key):
    return jnp.einsum(spec, query, key, preferred_element_type=jnp.float32)


def _to_rows(x):
    """[N, H, G, T, R, *] -> [B, H, T, R, *]."""
    x = x.swapaxes(1, 2)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _to_groups(x, n):
    """[B, H, T, R, *] -> [N, H, G, T, R, *]."""
    return x.reshape(n, x.shape[0] // n, *x.shape[1:]).swapaxes(1, 2)
