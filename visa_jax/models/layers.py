"""The parts of a decoder block. Every parameter is declared once: shape, start, logical axes.

The ``axes`` metadata names each dimension (``embed``, ``heads``, ``mlp`` ...), so that
sharding, restoring and format conversion can be derived from the declaration.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from visa_jax.config import require
from visa_jax.parallel import constrain, gather
from visa_jax.parallel.axes import is_axes

REMATS = ("none", "full", "dots")  # what the backward pass of a layer recomputes
FLOW = ("batch", "length", "embed")  # the axes of what flows from block to block
MASKED = -1e30  # finite, so that a fully masked row gives a mean and not NaN


def declare(shape, axes, *, std: float = 0.0, mean: float = 0.0) -> nnx.Param:
    """A float32 parameter with one axis name per dimension, drawn from N(mean, std²) by ``draw_params``."""
    return nnx.Param(jnp.full(shape, mean, jnp.float32), axes=tuple(axes), std=std)


def draw_params(module: nnx.Module, key: jax.Array):
    """Nested dict of a module's declared parameters, drawn anew: mean + std · noise.

    The noise is one array cut into pieces: a generator per parameter takes seconds to compile.
    """
    state = nnx.state(module)
    variables = [variable for _, variable in nnx.to_flat_state(state)]
    sizes = [math.prod(variable.shape) if variable.get_metadata()["std"] else 0 for variable in variables]
    noise, start, params = jax.random.normal(key, (sum(sizes),)), 0, []
    for variable, size in zip(variables, sizes, strict=True):
        piece = noise[start : start + size].reshape(variable.shape) if size else 0.0
        params.append(variable[...] + variable.get_metadata()["std"] * piece)
        start += size
    return jax.tree.unflatten(jax.tree.structure(nnx.to_pure_dict(state)), params)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x²) + eps) · scale over the last axis, in float32, returned in x's dtype.

    Zhang & Sennrich 2019, equation 4. ``x`` is [..., D], ``scale`` [D].
    """
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * inverse).astype(x.dtype) * scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """(x - mean) / sqrt(variance + eps) · scale + bias over the last axis, in float32 (Ba et al. 2016, equation 4)."""
    wide, lead = x.astype(jnp.float32), (1,) * (x.ndim - 1) + (-1,)
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * scale.astype(jnp.float32).reshape(lead) + bias.astype(jnp.float32).reshape(lead)).astype(x.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Slower rotary angles, for texts longer than those of the first training.

    ``linear`` divides all frequencies by ``factor`` (Chen et al. 2023). ``llama3`` leaves those alone that turn more
    than ``high_freq_factor`` times within ``original_length`` tokens, divides those that turn less than
    ``low_freq_factor`` times, and goes over from one to the other between (Llama 3.1's published code).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192

    def __post_init__(self):
        require(self.kind in ("linear", "llama3"), "rope_scaling", f"{self.kind!r} is none of linear, llama3")
        for name in ("factor", "low_freq_factor", "original_length"):
            require(getattr(self, name) > 0, f"rope_scaling.{name}", f"must be positive, not {getattr(self, name)}")
        ordered = self.high_freq_factor > self.low_freq_factor
        require(ordered, "rope_scaling.high_freq_factor", f"must be above low_freq_factor, not {self.high_freq_factor}")

    def apply(self, frequency: jax.Array) -> jax.Array:
        """The scaled frequencies, in radians per token."""
        if self.kind == "linear":
            return frequency / self.factor
        turns = self.original_length * frequency / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = jnp.clip(kept, 0.0, 1.0)
        return (1 - kept) * frequency / self.factor + kept * frequency


def rope_angles(
    position_BT: jax.Array, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of position · theta^(-2i/C), each [B, T, C/2] (Su et al. 2021, equation 15)."""
    frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is not None:
        frequency = scaling.apply(frequency)
    angle = position_BT[..., None].astype(jnp.float32) * frequency[None, None, :]
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the pairs (x_i, x_{i + C/2}) of each head by the position's angle.

    ``x`` is [B, T, ..., C] with any head axes between; the pairing is that of Llama's published weights.
    """
    shape = angles[0].shape[:2] + (1,) * (x.ndim - 3) + angles[0].shape[2:]
    cos, sin = (part.astype(x.dtype).reshape(shape) for part in angles)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Norm(nnx.Module):
    """``rms``: RMSNorm with a learned scale; ``rms_plus_one``: its scale is 1 + the parameter; ``layer``: LayerNorm."""

    def __init__(self, width: int, eps: float, axis: str = "norm", kind: str = "rms"):
        self.scale = declare((width,), (axis,), mean=0.0 if kind == "rms_plus_one" else 1.0)
        self.bias = declare((width,), (axis,)) if kind == "layer" else None
        self.eps, self.kind = eps, kind

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.bias is not None:
            return layer_norm(x, self.scale[...], self.bias[...], self.eps)
        if self.kind == "rms":
            return rms_norm(x, self.scale[...], self.eps)
        # rounded to x's dtype after the scale and not before: so are these models trained
        return rms_norm(x.astype(jnp.float32), 1.0 + self.scale[...].astype(jnp.float32), self.eps).astype(x.dtype)


def product(x_ND: jax.Array, kernel) -> jax.Array:
    """x @ kernel with the kernel's input axes as one and its output axes as one: [N, outputs] in x's dtype.

    ``kernel`` is an array [*in, *out], or a record that stands for one: it has ``shape`` and ``product(x_ND)`` (an
    adapter beside a kernel, ``lora.LowRank``; a kernel in few bits, ``quantize.Int8`` and ``quantize.Nf4``).
    """
    if hasattr(kernel, "product"):
        return kernel.product(x_ND)
    return x_ND @ kernel.astype(x_ND.dtype).reshape(x_ND.shape[1], -1)


def gathered(kernel, axes: tuple[str, ...], inputs: int, dtype):
    """A kernel, or each array of a record that stands for one, as a layer uses it on a mesh (``parallel.gather``)."""
    if not hasattr(kernel, "product"):
        return gather(kernel, axes, dtype)
    names = jax.tree.leaves(kernel.axes(axes, inputs), is_leaf=is_axes)
    leaves, tree = jax.tree.flatten(kernel)
    return jax.tree.unflatten(tree, [gather(x, name, x.dtype) for x, name in zip(leaves, names, strict=True)])


class Linear(nnx.Module):
    """x @ kernel + bias over the last ``inputs`` axes of x; kernel [*in, *out], or a record (see ``product``)."""

    def __init__(self, shape, axes, *, inputs: int, bias: bool, std: float):
        self.kernel = declare(shape, axes, std=std)
        self.bias = declare(shape[inputs:], axes[inputs:]) if bias else None
        self.inputs = inputs

    def gathered(self, dtype):
        """The kernel as a product in ``dtype`` uses it."""
        return gathered(self.kernel.get_value(), self.kernel.get_metadata()["axes"], self.inputs, dtype)

    def __call__(self, x: jax.Array, kernel=None) -> jax.Array:
        # One plain matrix product over all tokens: the gradient of a kernel with several
        # leading axes is transposed on CPU and takes more than twice as long.
        lead = x.shape[: x.ndim - self.inputs]
        kernel = self.gathered(x.dtype) if kernel is None else kernel
        out_shape = kernel.shape[self.inputs :]
        out = product(x.reshape(math.prod(lead), -1), kernel)
        if self.bias is not None:
            out = out + self.bias[...].astype(x.dtype).reshape(1, -1)
        return out.reshape(lead + out_shape)


@jax.checkpoint
def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) · up; the backward pass computes the sigmoid again, cheaper than keeping its parts."""
    return jax.nn.silu(gate) * up


@jax.checkpoint
def geglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """gelu(gate) · up with the tanh form of GELU, recomputed like ``swiglu``."""
    return jax.nn.gelu(gate, approximate=True) * up


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """cap · tanh(x / cap): as x near 0, never beyond ±cap (Gemma 2 report, section 2); x itself without a cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


class Attention(nnx.Module):
    """The projections of grouped-query attention; which keys are seen is the caller's business."""

    def __init__(self, config):
        width, q, h, c = config.width, config.heads, config.kv_heads, config.head_dim
        std, out_std = width**-0.5, (q * c * 2 * config.layers) ** -0.5
        into = dict(inputs=1, bias=config.bias, std=std)
        self.query = Linear((width, q, c), ("embed", "heads", "head_dim"), **into)
        self.key = Linear((width, h, c), ("embed", "kv_heads", "head_dim"), **into)
        self.value = Linear((width, h, c), ("embed", "kv_heads", "head_dim"), **into)
        self.out = Linear((q, c, width), ("heads", "head_dim", "embed"), inputs=2, bias=config.out_bias, std=out_std)
        norms = config.qk_norm
        self.query_norm = Norm(c, config.norm_eps, "head_dim", config.norm) if norms else None
        self.key_norm = Norm(c, config.norm_eps, "head_dim", config.norm) if norms else None
        # attend divides scores by sqrt(head_dim); what another divisor changes is put on the query
        self.query_factor = 1.0 if config.query_scalar is None else (c / config.query_scalar) ** 0.5

    def project(self, x_BTD: jax.Array, angles) -> tuple[jax.Array, jax.Array, jax.Array]:
        """query [B, T, Q, C] and key, value [B, T, H, C], positions turned in unless ``angles`` is None."""
        query, key, value = self.query(x_BTD), self.key(x_BTD), self.value(x_BTD)
        query = constrain(query, "batch", "length", "heads", "head_dim")
        key, value = (constrain(x, "batch", "length", "kv_heads", "head_dim") for x in (key, value))
        if self.query_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        return query if self.query_factor == 1.0 else query * self.query_factor, key, value


class Mlp(nnx.Module):
    """down(act(gate(x)) · up(x)) (Shazeer 2020, equation 6; SwiGLU), without a gate down(act(up(x)))."""

    def __init__(self, config):
        width, hidden = config.width, config.mlp_width
        into = dict(inputs=1, bias=config.mlp_bias, std=width**-0.5)
        self.gate = Linear((width, hidden), ("embed", "mlp"), **into) if config.gated else None
        self.up = Linear((width, hidden), ("embed", "mlp"), **into)
        out_std = (hidden * 2 * config.layers) ** -0.5
        self.down = Linear((hidden, width), ("mlp", "embed"), inputs=1, bias=config.mlp_bias, std=out_std)
        self.activation = config.activation

    def __call__(self, x: jax.Array) -> jax.Array:
        silu = self.activation == "silu"
        if self.gate is None:
            hidden = jax.nn.silu(self.up(x)) if silu else jax.nn.gelu(self.up(x), approximate=True)
        else:
            hidden = (swiglu if silu else geglu)(self.gate(x), self.up(x))
        return self.down(constrain(hidden, "batch", "length", "mlp"))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); with ``post_norms`` what is added is normalised too."""

    def __init__(self, config):
        norm = dict(width=config.width, eps=config.norm_eps, kind=config.norm)
        self.attention_norm = Norm(**norm)
        self.attention = Attention(config)
        self.attention_post_norm = Norm(**norm) if config.post_norms else None
        self.mlp_norm = Norm(**norm)
        self.mlp = Mlp(config)
        self.mlp_post_norm = Norm(**norm) if config.post_norms else None

    def __call__(self, x_BTD: jax.Array, angles, attend_fn, take=None) -> tuple[jax.Array, object]:
        """``attend_fn(query, key, value) -> (out_BTQC, kept)``; returns the new x and ``kept``.

        ``take``: x_BTE -> x_BJE, the tokens that ask and get a new x; all of them are asked.
        """
        query, key, value = self.attention.project(self.attention_norm(x_BTD), angles)
        if take is not None:
            x_BTD, angles = take(x_BTD), jax.tree.map(take, angles)
            query = self.attention.project(self.attention_norm(x_BTD), angles)[0]
        out, kept = attend_fn(query, key, value)
        added = self.attention.out(out)
        x_BTD = x_BTD + (added if self.attention_post_norm is None else self.attention_post_norm(added))
        x_BTD = constrain(x_BTD, *FLOW)
        added = self.mlp(self.mlp_norm(x_BTD))
        x_BTD = x_BTD + (added if self.mlp_post_norm is None else self.mlp_post_norm(added))
        return constrain(x_BTD, *FLOW), kept


def rematerialised(fn, policy: str):
    """``fn`` of which the backward pass recomputes nothing (none), all (full), or all but matrix products (dots)."""
    if policy == "none":
        return fn
    save = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if policy == "dots" else None
    return jax.checkpoint(fn, policy=save, prevent_cse=False)
