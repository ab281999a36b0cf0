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

        def late(frozen, x_ND):
            # False, as nothing is above infinity, which XLA does not know. Bound to x, a kernel can not be made dense
            # long before its turn: where layers are unrolled (decoding), a CPU would begin with all of them.
            above = jax.lax.platform_dependent(x_ND[0, 0], cpu=lambda first: first > jnp.inf, default=_false)
            bound = jax.tree.map(lambda leaf: leaf + above.astype(leaf.dtype), frozen)
            return bound.dense_product(x_ND)

        return jax.checkpoint(late)(self, x_ND)

    def dense_product(self, x_ND: Array) -> Array:
        """x @ the dense kernel, as it stands."""
        return product(x_ND, self.dense().astype(x_ND.dtype))


def _false(_) -> Array:
    return jnp.zeros((), bool)


@record
class Int8(_Frozen):
    """Eight-bit numbers: level times step. A kernel has a step per output channel, a cache one per key and value."""

    level: Array  # int8, -127 to 127; of a kernel [*in, *out] (behind a layer axis, as all leaves under ``layers``)
    step: Array  # float32, 1 along the axes that share it: largest |entry| along them / 127

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense array."""
        return self.level.shape

    def axes(self, names: tuple[str, ...], inputs: int) -> "Int8":
        """The record with axis names for arrays, of a kernel whose axes are ``names``."""
        return Int8(level=names, step=(None,) * inputs + names[inputs:])

    def dense(self) -> Array:
        """The array, float32; at most step / 2 from what it was made of."""
        return self.level.astype(jnp.float32) * self.step


@record
class Nf4(_Frozen):
    """A four-bit kernel: a code of ``NF4`` times the largest entry of its block, which is a run of inputs of an output.

    Outputs are the last axis of both arrays, for few rows of many columns fit into the tiles of an accelerator. A byte
    holds two inputs that stand half a block apart, so that runs of rows are made and none has to be interleaved.
    """

    packed: Array  # uint8 [inputs / 2, outputs], see ``pack``
    largest: Array  # float32 [inputs / block, outputs]: largest |kernel| of the block
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # of the kernel of one layer, [*in, *out]

    def axes(self, names: tuple[str, ...], inputs: int) -> "Nf4":
        """The record with axis names for arrays: all inputs are one axis, all outputs another."""
        return dataclasses.replace(self, packed=(names[0], names[inputs]), largest=(names[0], names[inputs]))

    def dense(self) -> Array:
        """The kernel of one layer, float32; at most largest · half the distance of two codes off."""
        return jnp.stack(self._halves(), axis=1).reshape(self.shape)

    def dense_product(self, x_ND: Array) -> Array:
        """x @ the dense kernel, as the sum over the two halves of each block: they need not be joined."""
        rows, blocks = x_ND.shape[0], self.largest.shape[0]
        x_2NI = x_ND.reshape(rows, blocks, 2, -1).transpose(2, 0, 1, 3).reshape(2, rows, -1)
        halves = [half.astype(x_ND.dtype).reshape(x_2NI.shape[2], -1) for half in self._halves()]
        first, second = (
            jnp.matmul(x, half, preferred_element_type=jnp.float32) for x, half in zip(x_2NI, halves, strict=True)
        )
        return (first + second).astype(x_ND.dtype)

    def _halves(self) -> list[Array]:
        """The first and the second half of each block, float32 [blocks, block / 2, outputs]."""
        byte = self.packed.reshape(self.largest.shape[0], -1, self.packed.shape[1])
        return [decode(code) * self.largest[:, None] for code in (byte >> 4, byte & 15)]


def decode(code: Array) -> Array:
    """The entries of ``NF4`` (float32) by a choice for each of the four bits: a TPU gathers slowly."""
    found = [jnp.float32(entry) for entry in NF4]
    for bit in range(4):
        found = [jnp.where((code >> bit) & 1, high, low) for low, high in zip(found[::2], found[1::2], strict=True)]
    return found[0]


def pack(code: Array, block: int) -> Array:
    """[I, O] codes 0 to 15 -> uint8 [I / 2, O]: of each block of rows the first half in the high four bits."""
    half = code.astype(jnp.uint8).reshape(-1, 2, block // 2, code.shape[1])
    return ((half[:, 0] << 4) | half[:, 1]).reshape(-1, code.shape[1])


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
    return Nf4(packed=pack(nearest, block), largest=largest, shape=kernel.shape)


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
