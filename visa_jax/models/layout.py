"""Between a tensor in a file and a parameter on devices: which axes are turned, what is fused, which layers are joined.

A path names a parameter in our tree (``("layers", "attention", "query", "kernel")``); parameters under ``layers`` have
a leading layer axis and one tensor per layer in the file.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from visa_jax.config import require
from visa_jax.models.weights import Weights
from visa_jax.types import Array, Params

Path = tuple[str, ...]


class Slot(NamedTuple):
    """Where a parameter is in a family's files; ``{}`` in the name stands for the layer."""

    name: str
    turned: bool = True  # a kernel is stored [out, in]
    part: int = 0  # which piece along the outputs (the last axis) ...
    parts: int = 1  # ... of so many equal ones


def stored_shape(path: Path, slot: Slot, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in the file of a parameter (of one layer of it) of ``shape``: several heads are one axis there."""
    if path[-1] == "kernel":
        inputs, outputs = math.prod(shape[: input_axes(path)]), math.prod(shape[input_axes(path) :])
        return (outputs, inputs) if slot.turned else (inputs, outputs * slot.parts)
    return (math.prod(shape) * slot.parts,) if path[-1] == "bias" else tuple(shape)


def read_param(
    weights: Weights, path: Path, slot: Slot, shape: tuple[int, ...], dtype, sharding: jax.sharding.Sharding
) -> Array:
    """A parameter as an array of ``sharding``. Each tensor is read once, alone, and cut for the devices as it lies.

    Turning, rounding to ``dtype`` and joining the layers happen on the devices, where for a moment it is there twice.
    """
    stacked = path[0] == "layers"
    part, lead = (shape[1:], 1) if stacked else (shape, 0)  # of one tensor; axes before it
    order = _order(path, slot, len(part))
    back = (*range(lead), *(lead + order.index(axis) for axis in range(len(part))))
    places = dict(sharding.addressable_devices_indices_map(tuple(shape)))
    pieces = {device: [] for device in places}
    for layer in range(shape[0] if stacked else 1):
        wanted = [device for device, index in places.items() if not stacked or layer in range(shape[0])[index[0]]]
        if not wanted:
            continue
        tensor = weights.read(slot.name.format(layer))
        if slot.parts > 1:
            tensor = np.split(tensor, slot.parts, axis=-1)[slot.part]
        tensor = tensor.reshape([part[axis] for axis in order])
        for device in wanted:
            cut = tensor[tuple(places[device][lead + axis] for axis in order)]
            on_device = jax.device_put(cut[None] if stacked else cut, device)
            pieces[device].append(jnp.transpose(on_device, back).astype(dtype))
    arrays = [jax.lax.concatenate(layers, 0) if stacked else layers[0] for layers in pieces.values()]
    return jax.make_array_from_single_device_arrays(tuple(shape), sharding, arrays)


def stored_tensors(params: Params, slots: dict[Path, Slot], dtype) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of each tensor of the file, one after the other; what is fused there is joined."""
    leaves, paths_of = flatten_dict(params), {}
    for path in sorted(leaves, key=lambda path: slots[path].part):
        paths_of.setdefault(slots[path].name, []).append(path)
    for name, paths in paths_of.items():
        for layer in range(len(leaves[paths[0]])) if paths[0][0] == "layers" else [None]:
            pieces = []
            for path in paths:
                piece = np.asarray(leaves[path] if layer is None else leaves[path][layer]).astype(dtype, copy=False)
                turned = piece.transpose(_order(path, slots[path], piece.ndim))
                pieces.append(turned.reshape(stored_shape(path, slots[path]._replace(parts=1), piece.shape)))
            yield name.format(layer), pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)


def matching_kernels(paths: Iterable[Path], pattern: str) -> list[Path]:
    """Paths of the kernels whose module ``pattern`` names, sorted: all of its path or all behind some ``/``.

    Raises UserError if the pattern is no regular expression or names none.
    """
    try:
        wanted = re.compile(f"(.*/)?({pattern})")
    except re.error as error:
        require(False, "pattern", f"{pattern!r} is no regular expression ({error})")
    kernels = sorted(path for path in paths if path[-1] == "kernel")
    found = [path for path in kernels if wanted.fullmatch("/".join(path[:-1]))]
    require(found, "pattern", f"{pattern!r} names none of {', '.join('/'.join(path[:-1]) for path in kernels)}")
    return found


def input_axes(path: Path) -> int:
    """Leading axes of a kernel that are inputs: two of attention's output, which reads heads."""
    return 2 if path[-2] == "out" else 1


def _order(path: Path, slot: Slot, rank: int) -> tuple[int, ...]:
    """Our axes in the order of the file."""
    if path[-1] == "kernel" and slot.turned:
        return (*range(input_axes(path), rank), *range(input_axes(path)))
    return tuple(range(rank))
