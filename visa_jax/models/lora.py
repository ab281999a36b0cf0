"""Low-rank adapters (LoRA, Hu et al. 2021) as functions of parameter trees.

1 ``init_adapters``    a tree of adapters for the kernels that a pattern names
2 ``attach``           base and adapters -> parameters that every function of ``LanguageModel`` takes
3 ``merge_adapters``   base and adapters -> plain parameters

``attach`` copies nothing: a ``LowRank`` record that holds both stands where a kernel stood, and ``Linear`` adds the
low-rank product. So the base, frozen, is in memory once, for the policy and for the reference (the base alone); what is
differentiated, has an optimizer state and goes into checkpoints is the tree of adapters. The base may be quantised
(``quantize``). PEFT's files: ``peft``.
"""

import dataclasses
import math
import zlib

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from visa_jax.config import require
from visa_jax.models.layers import product
from visa_jax.models.layout import Path, input_axes, matching_kernels
from visa_jax.types import Array, Params, record


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which kernels get an adapter, and how large."""

    rank: int = 64  # MOC's paper
    alpha: float = 128.0  # the code bases MOC compares with
    pattern: str = "attention/(query|value)"  # regular expression for module paths, whole names; Hu et al., section 4.2

    def __post_init__(self):
        require(self.rank >= 1, "rank", f"must be at least 1, not {self.rank}")
        require(self.alpha > 0, "alpha", f"must be positive, not {self.alpha}")

    @property
    def scale(self) -> float:
        """What the low-rank product is multiplied with: alpha / rank (Hu et al. 2021, section 4.1)."""
        return self.alpha / self.rank


@record
class LowRank:
    """A frozen kernel with its adapter: stands for W + scale · A B (Hu et al. 2021, equation 3)."""

    kernel: Array  # W [*in, *out], or a record that stands for it
    a: Array  # float32 [inputs, rank]
    b: Array  # float32 [rank, outputs]
    scale: float = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel."""
        return self.kernel.shape

    def axes(self, names: tuple[str, ...], inputs: int) -> "LowRank":
        """The record with axis names for arrays, of a kernel whose axes are ``names``, the first ``inputs`` inputs."""
        inner = self.kernel.axes(names, inputs) if hasattr(self.kernel, "axes") else names
        a, b = adapter_axes(names, inputs)
        return dataclasses.replace(self, kernel=inner, a=a, b=b)

    def product(self, x_ND: Array) -> Array:
        """x W + scale · (x A) B; W + A B is never made."""
        narrow_NR = (x_ND @ self.a.astype(x_ND.dtype)) * self.scale
        return product(x_ND, self.kernel) + narrow_NR @ self.b.astype(x_ND.dtype)


def init_adapters(key: Array, params: Params, config: LoraConfig) -> Params:
    """Adapters that change nothing yet: A is Gaussian, B zero (Hu et al. 2021, section 4.1).

    Args:
        key: typed key; each adapter's noise depends on its path, not on which others there are.
        params: of the base: arrays, records or their ``jax.eval_shape``.
        config: the pattern is matched with paths like ``layers/attention/query``.

    Returns:
        Nested dict like ``params`` with ``{"a": [inputs, rank], "b": [rank, outputs]}`` (float32, behind a layer axis
        where the kernel has one) for each kernel that the pattern names, and nothing else.

    Raises:
        UserError: the pattern is no regular expression, or names no kernel.
    """
    leaves, adapters = flatten_dict(params), {}
    for path in matching_kernels(leaves, config.pattern):
        layers, shape = _kernel_shape(path, leaves[path])
        inputs, outputs = math.prod(shape[: input_axes(path)]), math.prod(shape[input_axes(path) :])
        own_key = jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
        noise = jax.random.normal(own_key, (*layers, inputs, config.rank))
        adapters[*path[:-1], "a"] = noise * (3 * inputs) ** -0.5  # the variance of PEFT's uniform start
        adapters[*path[:-1], "b"] = jnp.zeros((*layers, config.rank, outputs))
    return unflatten_dict(adapters)


def adapter_axes(names: tuple[str, ...], inputs: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Axes of (A, B) for a kernel whose axes are ``names``: several heads are one axis of an adapter."""
    return (names[0], "rank"), ("rank", names[inputs])


def attach(params: Params, adapters: Params, config: LoraConfig) -> Params:
    """Parameters of the adapted model: records of the same arrays, nothing is copied or computed.

    A leaf of ``adapters`` that is no A or B is a parameter that is trained as a whole and takes the base's place.
    Gradients: differentiate a function of the adapters that calls this.
    """
    flat = flatten_dict(adapters)
    leaves = flatten_dict(params) | _whole(flat)
    for path in _adapted(flat):
        low = LowRank(kernel=leaves[path], a=flat[*path[:-1], "a"], b=flat[*path[:-1], "b"], scale=config.scale)
        leaves[path] = low
    return unflatten_dict(leaves)


def merge_adapters(params: Params, adapters: Params, config: LoraConfig) -> Params:
    """Plain parameters: W + scale · A B, summed in float32 and stored in W's dtype. The base must not be quantised.

    Of a quantised base take ``quantize.dense_params`` first, or the unquantised weights.
    """
    flat = flatten_dict(adapters)
    leaves = flatten_dict(params) | _whole(flat)
    for path in _adapted(flat):
        kernel = leaves[path]
        require(hasattr(kernel, "dtype"), "/".join(path), "is quantised: make it dense before adapters are merged")
        a, b = flat[*path[:-1], "a"], flat[*path[:-1], "b"]
        added = config.scale * jnp.matmul(a, b, precision="highest").reshape(kernel.shape)
        leaves[path] = (kernel.astype(jnp.float32) + added).astype(kernel.dtype)
    return unflatten_dict(leaves)


def _adapted(flat_adapters) -> list[Path]:
    return [(*path[:-1], "kernel") for path in flat_adapters if path[-1] == "a"]


def _whole(flat_adapters):
    return {path: leaf for path, leaf in flat_adapters.items() if path[-1] not in ("a", "b")}


def _kernel_shape(path, kernel):
    """(layer axis, [*in, *out]) of a kernel or of a record that stands for one."""
    if path[0] != "layers":
        return (), tuple(kernel.shape)
    layers = jax.tree.leaves(kernel)[0].shape[:1]
    return layers, tuple(jax.eval_shape(lambda leaf: jax.tree.map(lambda x: x[0], leaf), kernel).shape)
