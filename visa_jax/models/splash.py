"""``cache.attend`` by Pallas' splash attention, the flash kernel of TPUs that leaves out blocks that nobody sees.

Importing this imports Pallas, which takes most of a second: only where ``attention.choose`` says splash.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as pallas

from visa_jax.models.attention import BLOCK
from visa_jax.models.cache import heads_first
from visa_jax.types import Array


class GroupMask(pallas.Mask):
    """Which columns a group's queries see: the whole prefix, and of the own tokens those of the same row.

    Queries are G rows of ``length``; columns are ``before`` of the prefix, then the same rows. Made block by block, for
    the whole may be large; blocks that nobody sees cost nothing.
    """

    def __init__(self, group: int, length: int, before: int, causal: bool, window: int | None):
        self.parts = (group, length, before, causal, window)

    @property
    def shape(self) -> tuple[int, int]:
        """(queries, columns)."""
        group, length, before, _, _ = self.parts
        return group * length, before + group * length

    def __getitem__(self, index) -> np.ndarray:
        _, length, before, causal, window = self.parts
        query, column = (np.arange(size)[cut] for size, cut in zip(self.shape, index, strict=True))
        query, own = query[:, None], column[None, :] - before
        seen = query // length == own // length
        if causal:
            seen &= own <= query
        if window is not None:
            seen &= query - own < window
        return seen | (own < 0)

    def __eq__(self, other) -> bool:
        return isinstance(other, GroupMask) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)


def splash(
    query_BTQC: Array,
    key_BTHC: Array,
    value_BTHC: Array,
    segment_BT: Array,
    prefix=None,
    *,
    causal: bool,
    window: int | None = None,
    cap: float | None = None,
    interpret: bool = False,
) -> Array:
    """``cache.attend`` by splash attention; key and value as they are projected, ``prefix`` as there.

    The rows of a group are one sequence to the kernel, behind their prompt: its keys are not repeated.

    Args:
        segment_BT: int32, 0 where padded; tokens see their own segment. Behind a prefix: 1 where valid.
        causal: whether later tokens are hidden.
        window: tokens, its own included, that a token sees; None = all. Columns are counted, which is the same where
            a row's valid tokens stand together. Not behind a prefix.
        cap: soft cap of the scores.
        interpret: run on any platform, for tests.
    """
    rows, tokens, heads, size = query_BTQC.shape
    length = _up(tokens)
    query, key, value = (
        heads_first(jnp.pad(x, ((0, 0), (0, length - tokens), (0, 0), (0, 0))))
        for x in (query_BTQC * size**-0.5, key_BTHC, value_BTHC)
    )
    segment = jnp.pad(segment_BT, ((0, 0), (0, length - tokens)))
    n, before = rows, 0
    if prefix is not None:
        key_NHLC, value_NHLC, bias_NL = prefix
        n, before = key_NHLC.shape[0], _up(key_NHLC.shape[2])
    group = rows // n

    def as_sequence(x_BHTC):
        x_NGHTC = x_BHTC.reshape(n, group, *x_BHTC.shape[1:])
        return x_NGHTC.swapaxes(1, 2).reshape(n, x_BHTC.shape[1], group * length, size)

    query, key, value = as_sequence(query), as_sequence(key), as_sequence(value)
    segment = column_segment = segment.reshape(n, group * length)
    if prefix is not None:
        added = before - key_NHLC.shape[2]
        shared_key, shared_value = (jnp.pad(x, ((0, 0), (0, 0), (0, added), (0, 0))) for x in (key_NHLC, value_NHLC))
        key, value = jnp.concatenate([shared_key, key], axis=2), jnp.concatenate([shared_value, value], axis=2)
        shared_segment = jnp.pad((bias_NL == 0).astype(segment.dtype), ((0, 0), (0, added)))
        column_segment = jnp.concatenate([shared_segment, segment], axis=1)

    of_queries, of_columns = _block(length), _block(math.gcd(length, before))
    sizes = pallas.BlockSizes(
        block_q=of_queries,
        block_kv=of_columns,
        block_q_dkv=of_queries,
        block_kv_dkv=of_columns,
        block_q_dq=of_queries,
        block_kv_dq=of_columns,
    )
    kernel = pallas.make_splash_mha(
        pallas.MultiHeadMask([GroupMask(group, length, before, causal, window)] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=cap,
        interpret=interpret,
    )
    out = jax.vmap(kernel)(query, key, value, pallas.SegmentIds(segment, column_segment))
    out_NGQTC = out.reshape(n, heads, group, length, size).swapaxes(1, 2)
    return heads_first(out_NGQTC.reshape(rows, heads, length, size))[:, :tokens]


def _up(tokens: int) -> int:
    """The next multiple of a block."""
    return -(-tokens // BLOCK) * BLOCK


def _block(length: int) -> int:
    """The largest block, up to 512 tokens, that divides a multiple of ``BLOCK``."""
    return next(size for size in (512, 256, BLOCK) if length % size == 0)
