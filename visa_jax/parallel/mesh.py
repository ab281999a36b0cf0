"""The mesh of a run: data x fsdp x tensor.

``data`` and ``fsdp`` both cut the rows of a batch; parameters are whole along ``data`` and cut along ``fsdp`` (they
are gathered layer by layer where they are used, Rajbhandari et al. 2020, ZeRO-3). ``tensor`` cuts heads, MLP and
vocabulary, and with them the work on a row (Shoeybi et al. 2019).
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from visa_jax.config import require

MESH_AXES = ("data", "fsdp", "tensor")
WAYS = ("jit", "pmap", "pmap_sharded")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices along each axis; one axis may be -1: what the others leave of the devices."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    way: str = "jit"  # jit | pmap (parameters whole on each device) | pmap_sharded (a piece of each on each device)

    def __post_init__(self):
        require(self.way in WAYS, "way", f"{self.way!r} is not one of {', '.join(WAYS)}")
        sizes = {axis: getattr(self, axis) for axis in MESH_AXES}
        for axis, size in sizes.items():
            require(size >= 1 or size == -1, axis, f"must be at least 1, or -1 for what is left, not {size}")
        require(list(sizes.values()).count(-1) <= 1, "fsdp", "one axis at most can be -1")
        whole = self.way == "jit" or (self.tensor == 1 and (self.fsdp == 1 if self.way == "pmap" else self.data == 1))
        axes = {"pmap": "data", "pmap_sharded": "fsdp"}.get(self.way)
        require(whole, "way", f"{self.way} knows the axis {axes} alone; the others must be 1")


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """Sizes of (data, fsdp, tensor) on so many devices.

    Raises:
      FieldError: the product is not the number of devices (both numbers are named).
    """
    sizes = [getattr(config, axis) for axis in MESH_AXES]
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        axis = MESH_AXES[sizes.index(-1)]
        require(devices % known == 0, axis, f"-1 leaves nothing whole: {devices} devices, the other axes take {known}")
        sizes[sizes.index(-1)] = devices // known
    require(
        math.prod(sizes) == devices,
        "data",
        f"data x fsdp x tensor = {' x '.join(map(str, sizes))} = {math.prod(sizes)}, but there are {devices} devices",
    )
    return tuple(sizes)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over ``devices`` (default: all, of every process).

    ``jax.make_mesh`` puts neighbours of the last axis (tensor, the one that talks most) next to one another.
    A config that names one device takes the first of them.

    Raises:
      FieldError: see ``mesh_shape``.
    """
    devices = list(jax.devices() if devices is None else devices)
    if all(getattr(config, axis) == 1 for axis in MESH_AXES):
        devices = devices[:1]
    shape = mesh_shape(config, len(devices))
    # Auto: the compiler places what is not said; Explicit, the default, refuses gathers without a sharding
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(shape), devices=devices)


def row_shards(mesh: Mesh) -> int:
    """In how many pieces the rows of a batch are cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
