"""The decoder as a Flax NNX module, used as pure functions of a parameter tree.

1 ``DecoderConfig``  what it is made of
2 ``Decoder``        the module; layers are stacked on a leading axis
3 ``make_decoder``   splits the module once and hands out ``LanguageModel`` and ``init_fn``
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from visa_jax.config import require
from visa_jax.models.attention import CHOICES, Pair, View, attend_whole, choose, obstacle, seen_of
from visa_jax.models.cache import (
    append,
    attend,
    causal_bias,
    heads_first,
    init_cache,
    positions,
    prefix_lengths,
    same_segment,
    segments,
    windowed,
)
from visa_jax.models.layers import (
    FLOW,
    MASKED,
    REMATS,
    Block,
    Linear,
    Norm,
    RopeScaling,
    declare,
    draw_params,
    rematerialised,
    rope_angles,
    soft_cap,
)
from visa_jax.parallel import constrain, gather
from visa_jax.types import LanguageModel, Prefix

TABLE = ("vocab", "embed")
DTYPES = ("float32", "bfloat16", "float16")
NORMS = ("rms", "rms_plus_one", "layer")
ACTIVATIONS = ("silu", "gelu_tanh")
POSITIONS = ("rope", "learned")


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
    positions: str = "rope"  # or learned: a vector per place, added to the embedding
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None  # of layers that are not local
    window: int | None = None  # tokens, its own included, that a token sees in a local layer; None = no local layers
    local_layers: tuple[bool, ...] = ()  # which layers are local; () = all where there is a window
    local_rope_theta: float | None = None  # of local layers, which are not scaled then; None = as the others
    norm: str = "rms"  # rms_plus_one (Gemma: 1 + parameter) or layer (with a bias)
    norm_eps: float = 1e-5
    post_norms: bool = False  # norms behind attention and MLP, too
    qk_norm: bool = False
    query_scalar: int | None = None  # scores are divided by its root; None = head_dim
    attention_cap: float | None = None  # soft cap of attention's scores
    logit_cap: float | None = None  # soft cap of the logits
    bias: bool = False  # of query, key and value
    out_bias: bool = False  # of attention's output
    activation: str = "silu"
    gated: bool = True  # False: an MLP without a gate
    mlp_bias: bool = False
    scale_embedding: bool = False  # embeddings times the root of the width
    tie_embeddings: bool = True
    condition: int = 0  # size of a vector that a learned map adds to each token of the prompt; 0 = none
    max_length: int = 512  # prompt and completion together
    causal: bool = True  # False: every token sees every token (classifiers only)
    segment_end: int | None = None  # token id that closes a segment, beyond which nothing is seen (classifiers only)
    dtype: str = "float32"  # of the computation; parameters may have another
    remat: str = "none"  # what the backward pass recomputes: none, full, dots (all but matmuls)
    scan_layers: bool = True  # one compiled block instead of one per layer
    attention: str = "auto"  # of whole sequences: xla, cudnn (GPU), splash (TPU); auto = by platform and what it can do

    def __post_init__(self):
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "max_length"):
            require(getattr(self, name) > 0, name, f"must be positive, not {getattr(self, name)}")
        require(self.condition >= 0, "condition", f"must be 0 or more, not {self.condition}")
        require(self.rope_theta > 0, "rope_theta", f"must be positive, not {self.rope_theta}")
        for name in ("window", "local_rope_theta", "query_scalar", "attention_cap", "logit_cap"):
            given = getattr(self, name)
            require(given is None or given > 0, name, f"must be positive or None, not {given}")
        counted = len(self.local_layers) in (0, self.layers)
        require(counted, "local_layers", f"has {len(self.local_layers)} entries for {self.layers} layers")
        require(self.window or not any(self.local_layers), "local_layers", "a local layer needs a window")
        require(self.causal or not self.window, "window", "needs causal = True")
        require(self.norm_eps > 0, "norm_eps", f"must be positive, not {self.norm_eps}")
        require(self.heads % self.kv_heads == 0, "kv_heads", f"{self.kv_heads} must divide heads = {self.heads}")
        require(self.head_dim % 2 == 0, "head_dim", f"{self.head_dim} must be even, rotary positions turn pairs")
        apart = self.segment_end is not None
        require(not (apart and self.causal), "segment_end", "needs causal = False: a decoder sees its whole past")
        choices = dict(dtype=DTYPES, remat=REMATS, norm=NORMS, activation=ACTIVATIONS, positions=POSITIONS)
        choices["attention"] = CHOICES
        for name, known in choices.items():
            require(getattr(self, name) in known, name, f"{getattr(self, name)!r} is none of {', '.join(known)}")
        reason = obstacle(self, self.attention)
        require(not reason, "attention", f"{self.attention} is impossible here: {reason}")

    def is_local(self, layer: int) -> bool:
        """Whether a layer sees only ``window`` tokens."""
        return self.local_layers[layer] if self.local_layers else self.window is not None


class Decoder(nnx.Module):
    """Embedding, ``layers`` blocks stacked on a leading axis, final norm, output projection."""

    def __init__(self, config: DecoderConfig, platform: str = "cpu"):
        self.config, self.platform = config, platform
        shape, std = (config.vocab_size, config.width), config.width**-0.5
        self.embedding = declare(shape, TABLE, std=std)
        if config.positions == "learned":
            self.positions = declare((config.max_length, config.width), ("positions", "embed"), std=std)
        self.layers = nnx.vmap(lambda _: Block(config))(jnp.arange(config.layers))
        self.norm = Norm(config.width, config.norm_eps, kind=config.norm)
        if config.condition:  # starts at zero: a condition changes nothing before it is trained
            self.condition = Linear(
                (config.condition, config.width), ("condition", "embed"), inputs=1, bias=False, std=0.0
            )
        if not config.tie_embeddings:
            self.output = Linear(shape[::-1], ("embed", "vocab"), inputs=1, bias=False, std=std)

    def forward(self, tokens_BT, mask_BT):
        """Hidden states [B, T, D] after the final norm."""
        bias, segment_BT = causal_bias(mask_BT, self.config.causal), mask_BT.astype(jnp.int32)
        if self.config.segment_end is not None:
            closes_BT = tokens_BT == self.config.segment_end
            bias = jnp.where(same_segment(closes_BT), bias, MASKED)
            segment_BT = jnp.where(mask_BT, segments(closes_BT) + 1, 0)
        position_BT = positions(mask_BT)

        def attend_fn(query, key, value, view):
            return self._attend(query, key, value, view, segment_BT), None

        return self._blocks(self._embed(tokens_BT, position_BT), self._views(position_BT, bias), attend_fn)[0]

    def prefill(self, prompt_NL, mask_NL, condition_NM=None):
        """The Prefix of N prompts, padded on either side; ``condition_NM`` counts if the config has a map for it."""
        x_NLD, views = self._prompt(prompt_NL, mask_NL, condition_NM)

        last_of = _last_of(mask_NL)

        def attend_fn(query, key, value, view):
            return self._attend(query, key, value, view, mask_NL.astype(jnp.int32), last_of), (key, value)

        hidden_N1D, (key, value) = self._blocks(x_NLD, views, attend_fn, last_of)
        return Prefix(key_XNLHC=key, value_XNLHC=value, mask_NL=mask_NL, last_hidden_ND=hidden_N1D[:, 0])

    def extend(self, prompt_NL, prompt_mask_NL, condition_NM, completion_BT, mask_BT):
        """Hidden states of given completions, B = N * G, each behind its prompt: (hidden_BTD, last_hidden_ND).

        A prompt is computed once for its group: prompt and completions are one row of L + G * T tokens to all that
        looks at one token at a time, so that a kernel is read (on a mesh: gathered, its gradient scattered) once.
        """
        (n, length), (rows, tokens) = prompt_NL.shape, completion_BT.shape
        x_NLD, prompt_views = self._prompt(prompt_NL, prompt_mask_NL, condition_NM)
        position_BT = prefix_lengths(prompt_mask_NL, rows)[:, None] + positions(mask_BT)
        own_views = self._views(position_BT, causal_bias(mask_BT), position_BT, prompt_mask_NL)
        bias_NL, last_of = jnp.where(prompt_mask_NL, 0.0, MASKED), _last_of(prompt_mask_NL)

        def join(of_prompt, own):
            return jnp.concatenate([of_prompt, own.reshape(n, -1, *own.shape[2:])], axis=1)

        def part(x):
            """(of prompts [N, L or 1, ...], of completions [B, T, ...])."""
            before = x.shape[1] - rows // n * tokens
            return x[:, :before], x[:, before:].reshape(rows, tokens, *x.shape[2:])

        def attend_fn(query, key, value, views):
            of_prompt, own = zip(*map(part, (query, key, value)), strict=True)
            shared = (*map(heads_first, of_prompt[1:]), bias_NL)
            out_NLQC = self._attend(*of_prompt, views.prompt, prompt_mask_NL.astype(jnp.int32), last_of)
            out_BTQC = attend_whole(self.config, self.platform, *own, views.own, mask_BT.astype(jnp.int32), shared)
            return join(out_NLQC, out_BTQC), None

        def take(x_NSE):
            return jnp.concatenate([last_of(x_NSE[:, :length]), x_NSE[:, length:]], axis=1)

        views = []
        for one, other in zip(prompt_views, own_views, strict=True):
            angles = None if one.angles is None else tuple(map(join, one.angles, other.angles))
            views.append(Pair(angles, one._replace(angles=None), other._replace(angles=None)))
        x_NSD = join(x_NLD, self._embed(completion_BT, position_BT))
        last_N1D, hidden_BTD = part(self._blocks(x_NSD, views, attend_fn, take)[0])
        return hidden_BTD, last_N1D[:, 0]

    def decode(self, prefix, cache, token_B, step, layers=None):
        """Feed completion token number ``step``: hidden [B, D] and the cache with its key and value.

        ``step`` is an int32, or one per row. Of ``prefix`` only the mask is read: the cache has its keys and values.
        Layers are unrolled here: a scan would copy the whole cache at every token. ``layers``: a state per block,
        for slices of the stacked ones would be copied at every token too.
        """
        length, before_B = cache[0][1][0].shape[2], prefix_lengths(prefix.mask_NL, token_B.shape[0])
        bias = jnp.where(jnp.arange(length)[None, :] <= jnp.reshape(step, (-1, 1)), 0.0, MASKED)[:, None, :]
        position_B1, own_BS = (before_B + step)[:, None], before_B[:, None] + jnp.arange(length)[None, :]
        views = self._views(position_B1, bias, own_BS, prefix.mask_NL)
        x, new_cache = self._embed(token_B[:, None], position_B1), []
        for layer, (shared, own) in enumerate(cache):
            view = views[-1] if self.config.is_local(layer) else views[0]

            def attend_fn(query, key, value, shared=shared, own=own, view=view):
                own = append(own, key, value, step)
                return attend(query, *own, view.bias, seen_of(shared, view), self.config.attention_cap), own

            x, own = self._layer(layer, layers)(x, view.angles, attend_fn)
            new_cache.append((shared, own))
        return self.norm(x)[:, 0], tuple(new_cache)

    def head(self):
        """The output layer's kernel as ``logits`` uses it: gathered once, for a loop of calls.

        In float32 (with the numbers of the computation's dtype), so that its gradient is added up in float32.
        """
        if self.config.tie_embeddings:
            kernel = gather(self.embedding[...], TABLE, self.config.dtype)
        else:
            kernel = self.output.gathered(self.config.dtype)
        return kernel if hasattr(kernel, "product") else kernel.astype(jnp.float32)

    def logits(self, hidden, head=None):
        """float32 [..., V]; ``head`` is that of ``head()``, None = made here."""
        if self.config.tie_embeddings:
            table_VD = gather(self.embedding[...], TABLE, hidden.dtype) if head is None else head.astype(hidden.dtype)
            lead = hidden.shape[:-1]
            rows, contract = hidden.reshape(-1, hidden.shape[-1]), (((1,), (1,)), ((), ()))
            logits = jax.lax.dot_general(rows, table_VD, contract, preferred_element_type=jnp.float32)
            logits = logits.reshape(*lead, -1)
        else:
            logits = self.output(hidden, head).astype(jnp.float32)
        logits = constrain(logits, "batch", *("length",) * (logits.ndim - 2), "vocab")
        return soft_cap(logits, self.config.logit_cap)

    def _prompt(self, prompt_NL, mask_NL, condition_NM):
        """(embedded prompts, their views)."""
        position_NL = positions(mask_NL)
        x_NLD = self._embed(prompt_NL, position_NL)
        if self.config.condition and condition_NM is not None:
            # a map that starts at zero learns by steps of one size; the factor makes it as loud as a token soon
            added_ND = self.config.width**0.5 * self.condition(condition_NM.astype(x_NLD.dtype))
            x_NLD = x_NLD + added_ND[:, None, :]
        return x_NLD, self._views(position_NL, causal_bias(mask_NL, self.config.causal))

    def _embed(self, tokens_BT, position_BT):
        x_BTD = gather(self.embedding[...], TABLE, self.config.dtype)[tokens_BT]
        if self.config.scale_embedding:
            x_BTD = x_BTD * jnp.asarray(self.config.width**0.5, x_BTD.dtype)
        if self.config.positions == "learned":
            x_BTD = x_BTD + gather(self.positions[...], ("positions", "embed"), x_BTD.dtype)[position_BT]
        return constrain(x_BTD, *FLOW)

    def _views(self, position_BT, bias_BTS, key_position_BS=None, prefix_NL=None) -> tuple[View, ...]:
        """The View of all layers, or where some are local and some not those of (the others, the local ones).

        ``key_position_BS`` are places of the row's own keys (default: those of the queries); ``prefix_NL`` is the mask
        of a shared prefix.
        """
        config, kinds = self.config, {self.config.is_local(layer) for layer in range(self.config.layers)}
        prefix_bias, views = None, []
        if prefix_NL is not None and True in kinds:
            mask_BL = jnp.repeat(prefix_NL, position_BT.shape[0] // prefix_NL.shape[0], axis=0)
            bias_BTL = jnp.where(mask_BL, 0.0, MASKED)[:, None, :]
            prefix_bias = jnp.broadcast_to(bias_BTL, (*position_BT.shape, mask_BL.shape[1]))
        for local in sorted(kinds):
            angles, bias, seen = None, bias_BTS, prefix_bias
            if config.positions == "rope":
                apart = local and config.local_rope_theta is not None
                theta, scaling = (config.local_rope_theta, None) if apart else (config.rope_theta, config.rope_scaling)
                angles = rope_angles(position_BT, config.head_dim, theta, scaling)
            if local:
                own_BS = position_BT if key_position_BS is None else key_position_BS
                bias = windowed(bias, position_BT, own_BS, config.window)
                if seen is not None:
                    seen = windowed(seen, position_BT, positions(mask_BL), config.window)
            elif True in kinds:  # the two are chosen between layer by layer: same shapes
                bias = jnp.broadcast_to(bias, (position_BT.shape[0], *bias.shape[1:]))
            views.append(View(angles, bias, seen, local))
        return tuple(views)

    def _attend(self, query, key, value, view, segment_BT, last_of=None):
        if query.shape[1] < key.shape[1]:  # in the last layer one token asks
            view = view._replace(bias=last_of(view.bias))
        return attend_whole(self.config, self.platform, query, key, value, view, segment_BT)

    def _layer(self, index, layers):
        graph, stacked = nnx.split(self.layers)
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[index], stacked) if layers is None else layers[index])

    def _blocks(self, x_BTD, views, attend_fn, take=None):
        """All blocks and the final norm; ``attend_fn(q, k, v, View) -> (out, kept)``.

        ``take``: x_BTE -> x_BJE, the tokens whose hidden states are wanted. Of the others the last layer needs no more
        than keys and values, and where it is compiled apart from the others no more is computed.
        """
        graph, stacked = nnx.split(self.layers)
        local_X = None  # which layers take the second of two views
        if len(views) == 2:
            local_X = jnp.asarray([self.config.is_local(layer) for layer in range(self.config.layers)])

        def body(x, inputs, take=None):
            state, local = inputs
            view = views[0]
            if local is not None:
                view = jax.tree.map(lambda wide, near: jnp.where(local, near, wide), *views)
            block = nnx.merge(graph, state)
            return block(x, view.angles, lambda q, k, v: attend_fn(q, k, v, view), take)

        layer_fn = rematerialised(body, self.config.remat)
        last_fn = layer_fn if take is None else rematerialised(functools.partial(body, take=take), self.config.remat)
        x, inputs = x_BTD, (stacked, local_X)
        if self.config.scan_layers:
            x, kept = jax.lax.scan(layer_fn, x, inputs)
            x = x if take is None else take(x)
        else:
            kept = []
            for layer in range(self.config.layers):
                fn = last_fn if layer == self.config.layers - 1 else layer_fn
                x, kept_here = fn(x, jax.tree.map(lambda leaf, i=layer: leaf[i], inputs))
                kept.append(kept_here)
            kept = jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)
        return self.norm(x), kept


def _last_of(mask_NL):
    """x_NLE -> x_N1E: what belongs to each row's last valid token; the first axis of x may be 1."""
    last_N = jnp.max(jnp.where(mask_NL, jnp.arange(mask_NL.shape[1])[None, :], 0), axis=1)
    return lambda x_NLE: jnp.take_along_axis(x_NLE, last_N[:, None, None], axis=1)


def make_decoder(config: DecoderConfig, platform: str | None = None) -> tuple[LanguageModel, object]:
    """``(lm, init_fn)``: the pure functions of ``types.LanguageModel`` and ``init_fn(key) -> params``.

    ``params`` is a nested dict of float32 arrays whose leaves under ``layers`` have a leading
    layer axis. Positions count valid tokens; ``hidden`` is always behind the final norm.

    ``platform`` is what the functions will be compiled for (cpu, gpu, tpu); None = JAX's default. It decides nothing
    but what ``config.attention`` comes to. Raises FieldError for an attention that does not run there.
    """
    platform = platform or jax.default_backend()
    choose(config, platform)
    graph, _ = nnx.split(_abstract(config, platform))

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
        head=method("head"),
        unstack=unstack,
    )
    return lm, init_fn


def logical_axes(config: DecoderConfig):
    """A tree like ``params`` whose leaves are tuples of axis names, one per dimension."""
    _, state = nnx.split(_abstract(config))
    leaves = {path: variable.get_metadata()["axes"] for path, variable in nnx.to_flat_state(state)}
    named = {path: ("layers", *axes) if path[0] == "layers" else axes for path, axes in leaves.items()}
    return nnx.traversals.unflatten_mapping(named)


def _abstract(config, platform="cpu"):
    return nnx.eval_shape(lambda: Decoder(config, platform))
