"""Which program computes attention over whole sequences: XLA's products, cuDNN's flash or Pallas' splash kernel.

1 ``choose``  the config's field ``attention``, the platform and the sizes of a call -> a name and the reason
2 ``attend_whole``  calls it; on a mesh each device calls a kernel with its own rows and heads
3 ``cudnn``   ``cache.attend`` through cuDNN's flash attention (GPU)
4 ``splash``  ``cache.attend`` through Pallas' splash attention (TPU): in a file of its own, imported where it is taken

The kernels never hold the scores [B, Q, T, S]. What valid tokens get is the same within rounding: values and gradients
differ by at most 1e-5 of the largest entry in float32 and 2e-2 in bfloat16 (tests/models/test_attention.py). What
padding tokens get differs, and nothing reads it. ``decode`` is always XLA's: it has one query.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from visa_jax.config import require
from visa_jax.models.cache import attend, heads_first
from visa_jax.parallel import per_device
from visa_jax.types import Array

CHOICES = ("auto", "xla", "cudnn", "splash")
PROJECTED = (  # query, key and value as they are projected
    ("batch", "length", "heads", "head_dim"),
    ("batch", "length", "kv_heads", "head_dim"),
    ("batch", "length", "kv_heads", "head_dim"),
)
PLATFORMS = {"cudnn": "gpu", "splash": "tpu"}  # where each kernel runs
BLOCK = 128  # splash's smallest block of queries or keys: the lanes of a TPU


class View(NamedTuple):
    """Where the tokens of a call stand and what they see, for one kind of layer (local or not)."""

    angles: tuple[Array, Array] | None
    bias: Array  # [B, T, S] over own tokens; leading axes may be 1
    prefix_bias: Array | None = None  # [B, T, L] over a shared prefix; None: that of ``prefix_layers``
    local: bool | Array = False  # which kind; an array where layers of two kinds are scanned


class Pair(NamedTuple):
    """The Views of prompts and of the completions behind them, of one kind of layer; angles are of both in one row."""

    angles: tuple[Array, Array] | None
    prompt: View
    own: View


class Choice(NamedTuple):
    """What computes the attention of a call."""

    name: str  # xla, cudnn or splash
    reason: str = ""  # why XLA and not the platform's kernel; empty where the kernel is taken


def obstacle(config, name: str, tokens: int | None = None, prefix: int = 0) -> str:
    """Why the kernel ``name`` can not compute this, in a few words; empty where it can.

    ``config`` is a ``DecoderConfig``; ``tokens`` of a row and ``prefix`` tokens of the prompt it shares count padding,
    too, and are left out where only the config is asked about.
    """
    if name == "cudnn":
        if config.dtype == "float32":
            return "dtype float32 is not 16 bits wide"
        if config.attention_cap is not None:
            return "attention_cap is set"
        if config.head_dim % 8 or config.head_dim > 128:
            return f"head_dim {config.head_dim} is no multiple of 8 up to 128"
        if tokens is not None and (tokens % 2 or prefix % 2):
            return f"a length of {tokens if tokens % 2 else prefix} is odd"
    if name == "splash":
        if config.dtype == "float16":
            return "dtype float16 is unknown to a TPU"
        if tokens is not None and prefix and narrow(config.window, tokens, prefix):
            return f"a window of {config.window} tokens ends within a shared prompt"
    return ""


def choose(config, platform: str, tokens: int | None = None, prefix: int = 0) -> Choice:
    """What computes the attention of rows of ``tokens`` behind ``prefix`` (see ``obstacle``) on cpu, gpu or tpu.

    ``auto`` takes the platform's kernel where that can do it and has at least a block of tokens to do, else XLA.

    Raises:
        FieldError: the config names a kernel that can not do this, or that does not run here.
    """
    if config.attention == "auto":
        name = next((kernel for kernel, place in PLATFORMS.items() if place == platform), None)
        reason = f"{platform} has no kernel" if name is None else obstacle(config, name, tokens, prefix)
        if not reason and tokens is not None and tokens < BLOCK:
            reason = f"{tokens} tokens are less than a block of {BLOCK}"
        return Choice("xla", reason) if reason else Choice(name)
    if config.attention == "xla":
        return Choice("xla", "the config says so")
    reason = obstacle(config, config.attention, tokens, prefix)
    if not reason and PLATFORMS[config.attention] != platform:
        reason = f"it runs on {PLATFORMS[config.attention]}, not on {platform}"
    require(not reason, "attention", f"{config.attention} is impossible here: {reason}")
    return Choice(config.attention)


def narrow(window: int | None, tokens: int, prefix: int = 0) -> bool:
    """Whether a window hides anything from the last of so many tokens."""
    return window is not None and window < prefix + tokens


def cudnn(
    query_BTQC: Array, key_BTHC: Array, value_BTHC: Array, bias_BTS: Array, prefix=None, *, causal: bool
) -> Array:
    """``cache.attend`` by cuDNN; key and value as they are projected, ``prefix`` as there.

    cuDNN has one key per query row, so a prompt's keys are repeated for its group. ``causal`` says that ``bias_BTS``
    hides all later tokens, so that without a prefix half of the blocks is left out.
    """
    rows, tokens = query_BTQC.shape[:2]
    seen_BTS = jnp.broadcast_to(bias_BTS == 0, (rows, tokens, key_BTHC.shape[1]))
    if prefix is not None:
        key_NHLC, value_NHLC, bias = prefix
        group = rows // key_NHLC.shape[0]
        key_BLHC, value_BLHC = (jnp.repeat(heads_first(x), group, axis=0) for x in (key_NHLC, value_NHLC))
        bias_BTL = jnp.repeat(bias, group, axis=0)[:, None, :] if bias.ndim == 2 else bias
        shared_BTL = jnp.broadcast_to(bias_BTL == 0, (rows, tokens, key_BLHC.shape[1]))
        key_BTHC = jnp.concatenate([key_BLHC, key_BTHC], axis=1)
        value_BTHC = jnp.concatenate([value_BLHC, value_BTHC], axis=1)
        seen_BTS = jnp.concatenate([shared_BTL, seen_BTS], axis=2)
    return jax.nn.dot_product_attention(
        query_BTQC,
        key_BTHC,
        value_BTHC,
        mask=seen_BTS[:, None],
        is_causal=causal and prefix is None,
        implementation="cudnn",
    )


def attend_whole(config, platform: str, query, key, value, view: View, segment_BT, shared=None):
    """Attention of whole sequences, by what ``choose`` says; ``segment_BT`` as in ``splash``."""
    tokens = query.shape[1]
    prefix = 0 if shared is None else shared[0].shape[2]
    alone = tokens < key.shape[1]  # one token of each row asks, as in ``decode``
    name = "xla" if alone else choose(config, platform, tokens, prefix).name
    if name == "cudnn":
        bias, seen = jnp.broadcast_to(view.bias, (query.shape[0], *view.bias.shape[1:])), seen_of(shared, view)
        axes = (*PROJECTED, ("batch", "length", "length"), _shared_axes(seen))
        attend_fn = functools.partial(cudnn, causal=config.causal)
        return per_device(attend_fn, axes, PROJECTED[0])(query, key, value, bias, seen)
    if name == "splash":
        from visa_jax.models.splash import splash  # here, for it imports Pallas

        def through(window):
            seen = dict(causal=config.causal, window=window, cap=config.attention_cap)
            axes = (*PROJECTED, ("batch", "length"), _shared_axes(shared))
            return per_device(functools.partial(splash, **seen), axes, PROJECTED[0])

        arrays, wide = (query, key, value, segment_BT, shared), through(None)
        if not narrow(config.window, tokens, prefix):
            return wide(*arrays)
        if isinstance(view.local, bool):
            return through(config.window if view.local else None)(*arrays)
        return jax.lax.cond(view.local, through(config.window), wide, *arrays)
    own = heads_first(key), heads_first(value)
    return attend(query, *own, view.bias, seen_of(shared, view), config.attention_cap)


def seen_of(shared, view: View):
    """A layer's part of ``prefix_layers``, if any, with what the view sees of it."""
    return shared if view.prefix_bias is None or shared is None else (*shared[:2], view.prefix_bias)


def _shared_axes(shared):
    """Axes of a layer's part of ``prefix_layers``."""
    if shared is None:
        return None
    keys = ("batch", "kv_heads", "length", "head_dim")
    return (keys, keys, ("batch", *("length",) * (shared[2].ndim - 1)))
