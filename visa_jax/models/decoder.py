"""A Llama-shaped decoder as a Flax NNX module, used as pure functions of a parameter tree.

1 ``DecoderConfig``  what it is made of
2 ``Decoder``        the module; layers are stacked on a leading axis
3 ``make_decoder``   splits the module once and hands out ``LanguageModel`` and ``init_fn``
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from visa_jax.config import require
from visa_jax.models.cache import (
    append,
    attend,
    causal_bias,
    heads_first,
    init_cache,
    positions,
    prefix_layers,
    prefix_lengths,
    same_segment,
)
from visa_jax.models.layers import MASKED, Block, Linear, Norm, declare, draw_params, rope_angles
from visa_jax.types import LanguageModel, Prefix

DTYPES = ("float32", "bfloat16", "float16")
REMATS = ("none", "full", "dots")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and choices of a decoder. Raises UserError naming the field for an impossible one."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    qk_norm: bool = False
    bias: bool = False  # of query, key and value
    out_bias: bool = False  # of attention's output
    tie_embeddings: bool = True
    condition: int = 0  # size of a vector that a learned map adds to each token of the prompt; 0 = none
    max_length: int = 512  # prompt and completion together
    causal: bool = True  # False: every token sees every token (classifiers only)
    segment_end: int | None = None  # token id that closes a segment, beyond which nothing is seen (classifiers only)
    dtype: str = "float32"  # of the computation; parameters are float32
    remat: str = "none"  # what the backward pass recomputes: none, full, dots (all but matmuls)
    scan_layers: bool = True  # one compiled block instead of one per layer

    def __post_init__(self):
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "max_length"):
            require(getattr(self, name) > 0, name, f"must be positive, not {getattr(self, name)}")
        require(self.condition >= 0, "condition", f"must be 0 or more, not {self.condition}")
        require(self.rope_theta > 0, "rope_theta", f"must be positive, not {self.rope_theta}")
        require(self.norm_eps > 0, "norm_eps", f"must be positive, not {self.norm_eps}")
        require(self.heads % self.kv_heads == 0, "kv_heads", f"{self.kv_heads} must divide heads = {self.heads}")
        require(self.head_dim % 2 == 0, "head_dim", f"{self.head_dim} must be even, rotary positions turn pairs")
        apart = self.segment_end is not None
        require(not (apart and self.causal), "segment_end", "needs causal = False: a decoder sees its whole past")
        for name, known in (("dtype", DTYPES), ("remat", REMATS)):
            require(getattr(self, name) in known, name, f"{getattr(self, name)!r} is none of {', '.join(known)}")


class Decoder(nnx.Module):
    """Embedding, ``layers`` blocks stacked on a leading axis, final norm, output projection."""

    def __init__(self, config: DecoderConfig):
        self.config = config
        shape, std = (config.vocab_size, config.width), config.width**-0.5
        self.embedding = declare(shape, ("vocab", "embed"), std=std)
        self.layers = nnx.vmap(lambda _: Block(config))(jnp.arange(config.layers))
        self.norm = Norm(config.width, config.norm_eps)
        if config.condition:  # starts at zero: a condition changes nothing before it is trained
            self.condition = Linear(
                (config.condition, config.width), ("condition", "embed"), inputs=1, bias=False, std=0.0
            )
        if not config.tie_embeddings:
            self.output = Linear(shape[::-1], ("embed", "vocab"), inputs=1, bias=False, std=std)

    def forward(self, tokens_BT, mask_BT):
        """Hidden states [B, T, D] after the final norm."""
        bias = causal_bias(mask_BT, self.config.causal)
        if self.config.segment_end is not None:
            bias = jnp.where(same_segment(tokens_BT == self.config.segment_end), bias, MASKED)
        return self._blocks(
            self._embed(tokens_BT), positions(mask_BT), lambda q, k, v, _: (_attend(q, k, v, bias), None)
        )[0]

    def prefill(self, prompt_NL, mask_NL, condition_NM=None):
        """The Prefix of N prompts, padded on either side; ``condition_NM`` counts if the config has a map for it."""
        x_NLD = self._embed(prompt_NL)
        if self.config.condition and condition_NM is not None:
            # a map that starts at zero learns by steps of one size; the factor makes it as loud as a token soon
            added_ND = self.config.width**0.5 * self.condition(condition_NM.astype(x_NLD.dtype))
            x_NLD = x_NLD + added_ND[:, None, :]
        bias = causal_bias(mask_NL, self.config.causal)
        hidden, (key, value) = self._blocks(
            x_NLD, positions(mask_NL), lambda q, k, v, _: (_attend(q, k, v, bias), (k, v))
        )
        last_N = jnp.max(jnp.where(mask_NL, jnp.arange(mask_NL.shape[1])[None, :], 0), axis=1)
        last_hidden = jnp.take_along_axis(hidden, last_N[:, None, None], axis=1)[:, 0]
        return Prefix(key_XNLHC=key, value_XNLHC=value, mask_NL=mask_NL, last_hidden_ND=last_hidden)

    def extend(self, prefix, completion_BT, mask_BT):
        """Hidden states [B, T, D] of given completions, B = N * G, each behind its prompt's prefix."""
        bias = causal_bias(mask_BT)
        position_BT = prefix_lengths(prefix, completion_BT.shape[0])[:, None] + positions(mask_BT)

        def attend_fn(query, key, value, shared):
            return _attend(query, key, value, bias, shared), None

        return self._blocks(self._embed(completion_BT), position_BT, attend_fn, prefix_layers(prefix))[0]

    def decode(self, prefix, cache, token_B, step, layers=None):
        """Feed completion token number ``step``: hidden [B, D] and the cache with its key and value.

        Layers are unrolled here: a scan would copy the whole cache at every token. ``layers``: a state per block,
        for slices of the stacked ones would be copied at every token too.
        """
        length = cache[0][1][0].shape[2]
        bias = jnp.where(jnp.arange(length) <= step, 0.0, MASKED)[None, None, :]
        angles = self._angles((prefix_lengths(prefix, token_B.shape[0]) + step)[:, None])
        x, new_cache = self._embed(token_B[:, None]), []
        for layer, (shared, own) in enumerate(cache):

            def attend_fn(query, key, value, shared=shared, own=own):
                own = append(own, key, value, step)
                return attend(query, *own, bias, shared), own

            x, own = self._layer(layer, layers)(x, angles, attend_fn)
            new_cache.append((shared, own))
        return self.norm(x)[:, 0], tuple(new_cache)

    def logits(self, hidden):
        """float32 [..., V]."""
        if not self.config.tie_embeddings:
            return self.output(hidden).astype(jnp.float32)
        table_VD = self.embedding[...].astype(hidden.dtype)
        flat = jax.lax.dot_general(
            hidden.reshape(-1, hidden.shape[-1]), table_VD, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )
        return flat.reshape(*hidden.shape[:-1], -1)

    def _embed(self, tokens_BT):
        return self.embedding[...].astype(self.config.dtype)[tokens_BT]

    def _angles(self, position_BT):
        return rope_angles(position_BT, self.config.head_dim, self.config.rope_theta)

    def _layer(self, index, layers):
        graph, stacked = nnx.split(self.layers)
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[index], stacked) if layers is None else layers[index])

    def _blocks(self, x_BTD, position_BT, attend_fn, per_layer=None):
        """All blocks and the final norm; ``attend_fn(q, k, v, slice of per_layer) -> (out, kept)``."""
        graph, stacked = nnx.split(self.layers)
        angles = self._angles(position_BT)

        def body(x, inputs):
            state, extra = inputs
            return nnx.merge(graph, state)(x, angles, lambda q, k, v: attend_fn(q, k, v, extra))

        body = _remat(body, self.config.remat)
        x, inputs = x_BTD, (stacked, per_layer)
        if self.config.scan_layers:
            x, kept = jax.lax.scan(body, x, inputs)
        else:
            kept = []
            for layer in range(self.config.layers):
                x, kept_here = body(x, jax.tree.map(lambda leaf, i=layer: leaf[i], inputs))
                kept.append(kept_here)
            kept = jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)
        return self.norm(x), kept


def _remat(body, policy):
    if policy == "none":
        return body
    save = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if policy == "dots" else None
    return jax.checkpoint(body, policy=save, prevent_cse=False)


def _attend(query, key, value, bias, shared=None):
    return attend(query, heads_first(key), heads_first(value), bias, shared)


def make_decoder(config: DecoderConfig) -> tuple[LanguageModel, object]:
    """``(lm, init_fn)``: the pure functions of ``types.LanguageModel`` and ``init_fn(key) -> params``.

    ``params`` is a nested dict of float32 arrays whose leaves under ``layers`` have a leading
    layer axis. Positions count valid tokens; ``hidden`` is always behind the final norm.
    """
    graph, _ = nnx.split(_abstract(config))

    def method(name):
        return lambda params, *args: getattr(nnx.merge(graph, params), name)(*args)

    def unstack(params):
        layers = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"]) for i in range(config.layers))
        return {**params, "layers": layers}

    def decode(params, *args):
        layers = params["layers"]
        if isinstance(layers, tuple):  # from ``unstack``; the first block stands for the stack in the module
            return nnx.merge(graph, {**params, "layers": layers[0]}).decode(*args, layers=layers)
        return nnx.merge(graph, params).decode(*args)

    def init_fn(key):
        return draw_params(Decoder(config), key)

    lm = LanguageModel(
        forward=method("forward"),
        prefill=method("prefill"),
        extend=method("extend"),
        init_cache=init_cache,
        decode=decode,
        logits=method("logits"),
        unstack=unstack,
    )
    return lm, init_fn


def logical_axes(config: DecoderConfig):
    """A tree like ``params`` whose leaves are tuples of axis names, one per dimension."""
    _, state = nnx.split(_abstract(config))
    leaves = {path: variable.get_metadata()["axes"] for path, variable in nnx.to_flat_state(state)}
    named = {path: ("layers", *axes) if path[0] == "layers" else axes for path, axes in leaves.items()}
    return nnx.traversals.unflatten_mapping(named)


def _abstract(config):
    return nnx.eval_shape(lambda: Decoder(config))
