"""Frozen kernels in few bits. A record stands in the parameter tree where the kernel stood; ``Linear`` takes either.

Kernels are made dense where they are used, one layer at a time inside the scan over layers, and again in the backward
pass, so that a whole model is never dense. Records are data: nothing is differentiated through them.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from visa_jax.config import require
from visa_jax.models.layers import product
from visa_jax.models.layout import Path, input_axes, matching_kernels
from visa_jax.types import Array, Params, record

# NormalFloat4: quantiles of N(0, 1) scaled to [-1, 1], 0 among them (Dettmers et al. 2023, QLoRA, appendix E).
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


class _Frozen:
    """A record that stands for a kernel and is made dense where it is used."""

    def product(self, x_ND: Array) -> Array:
        """x @ the dense kernel; the backward pass makes it dense again instead of keeping it."""
        return jax.checkpoint(lambda frozen, x: product(x, frozen.dense().astype(x.dtype)))(self, x_ND)


@record
class Int8(_Frozen):
    """Eight-bit numbers: level times step. A kernel has a step per output channel, a cache one per key and value."""

    level: Array  # int8, -127 to 127; of a kernel [*in, *out] (behind a layer axis, as all leaves under ``layers``)
    step: Array  # float32, 1 along the axes that share it: largest |entry| along them / 127

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense array."""
        return self.level.shape

    def dense(self) -> Array:
        """The array, float32; at most step / 2 from what it was made of."""
        return self.level.astype(jnp.float32) * self.step


@record
class Nf4(_Frozen):
    """A four-bit kernel: a code of ``NF4`` times the largest entry of its block, which is a run of inputs of an output.

    Outputs are the last axis of both arrays, for few rows of many columns fit into the tiles of an accelerator.
    """

    packed: Array  # uint8 [inputs / 2, outputs]: input 2i in the high four bits, 2i + 1 in the low
    largest: Array  # float32 [inputs / block, outputs]: largest |kernel| of the block
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # of the kernel of one layer, [*in, *out]

    def dense(self) -> Array:
        """The kernel of one layer, float32; at most largest · half the distance of two codes off."""
        scaled = jnp.asarray(NF4, jnp.float32)[unpack(self.packed)]
        blocks = scaled.reshape(self.largest.shape[0], -1, scaled.shape[1]) * self.largest[:, None]
        return blocks.reshape(self.shape)


def pack(code: Array) -> Array:
    """[I, O] codes 0 to 15 -> uint8 [I / 2, O], the even row in the high four bits."""
    code = code.astype(jnp.uint8)
    return (code[0::2] << 4) | code[1::2]


def unpack(packed: Array) -> Array:
    """The inverse of ``pack``."""
    return jnp.stack([packed >> 4, packed & 15], axis=1).reshape(-1, packed.shape[1])


def quantize_int8(kernel: Array, inputs: int) -> Int8:
    """Round a kernel [*in, *out] with ``inputs`` input axes to 255 levels per output channel, symmetric about 0."""
    return round_to_int8(kernel, tuple(range(inputs)))


def round_to_int8(x: Array, axes: tuple[int, ...]) -> Int8:
    """Round to 255 levels, symmetric about 0, whose step all entries along ``axes`` share."""
    x = x.astype(jnp.float32)
    step = jnp.max(jnp.abs(x), axis=axes, keepdims=True) / 127
    level = jnp.round(x / jnp.where(step == 0, 1, step))
    return Int8(level=level.astype(jnp.int8), step=step)


def quantize_nf4(kernel: Array, inputs: int, block: int) -> Nf4:
    """Round a kernel [*in, *out] to the nearest codes in blocks of ``block`` inputs (QLoRA, section 3)."""
    flat = kernel.astype(jnp.float32).reshape(math.prod(kernel.shape[:inputs]), -1)
    blocks = flat.reshape(-1, block, flat.shape[1])
    largest = jnp.max(jnp.abs(blocks), axis=1)
    scaled = (blocks / jnp.where(largest == 0, 1, largest)[:, None]).reshape(flat.shape)
    codes = jnp.asarray(NF4, jnp.float32)
    nearest = jnp.searchsorted((codes[1:] + codes[:-1]) / 2, scaled)
    return Nf4(packed=pack(nearest), largest=largest, shape=kernel.shape)


def quantize_params(
    params: Params, kind: str = "int8", pattern: str = "attention/.*|mlp/.*", *, block: int = 64
) -> Params:
    """``params`` with records for the kernels that ``pattern`` names; all else is the same arrays.

    Args:
        params: parameters of a decoder, layers stacked. One layer is worked on at a time.
        kind: ``int8`` or ``nf4``.
        pattern: as in ``lora.LoraConfig``.
        block: of nf4: inputs that share a scale; even, divides the inputs of each kernel.

    Raises:
        UserError: an unknown kind, a pattern that names nothing, a block that does not divide.
    """
    require(kind in ("int8", "nf4"), "kind", f"{kind!r} is none of int8, nf4")
    leaves = flatten_dict(params)
    for path in matching_kernels(leaves, pattern):
        inputs, stacked = input_axes(path), path[0] == "layers"
        count = math.prod(leaves[path].shape[stacked:][:inputs])
        fits = kind == "int8" or (block > 0 and block % 2 == 0 and count % block == 0)
        require(fits, "block", f"{block} must be even and divide the {count} inputs of {'/'.join(path[:-1])}")
        leaves[path] = _quantize(leaves[path], kind, inputs, block, stacked)
    return unflatten_dict(leaves)


def dense_params(params: Params) -> Params:
    """``params`` with arrays (float32) where records stood."""

    def dense(path: Path, leaf):
        if not isinstance(leaf, _Frozen):
            return leaf
        return jax.vmap(lambda one: one.dense())(leaf) if path[0] == "layers" else leaf.dense()

    return unflatten_dict({path: dense(path, leaf) for path, leaf in flatten_dict(params).items()})


def _quantize(kernel, kind, inputs, block, stacked):
    def one(kernel):
        return quantize_int8(kernel, inputs) if kind == "int8" else quantize_nf4(kernel, inputs, block)

    return jax.lax.map(one, kernel) if stacked else one(kernel)
