"""A slice that is not there: its devices, and what its vendor says a chip can do.

``v5e:4x4`` is described by libtpu, whose compiler needs no TPU; ``cpu:8`` are devices of this host.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence

import jax

from visa_jax.config import UserError, suggestion

INSTALL = "pip install libtpu"
GB = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of one chip; ``cores`` devices share it."""

    name: str
    hbm_bytes: float
    flops: float  # a second, bfloat16, dense
    hbm_rate: float  # bytes a second
    ici_rate: float  # bytes a second that a chip can send, all its links together
    cores: int = 1

    def device(self) -> "Chip":
        """The share of one device."""
        rates = {name: getattr(self, name) / self.cores for name in ("hbm_bytes", "flops", "hbm_rate", "ici_rate")}
        return dataclasses.replace(self, cores=1, **rates)


# cloud.google.com/tpu/docs: peak compute per chip in bf16, HBM capacity and bandwidth, interchip interconnect bandwidth
# (given there in both directions or in Gbit/s: one direction here). Looked up in 2026-11, but for tpu7x's HBM and links
CHIPS = {
    "v4": Chip("v4", 32 * 2**30, 275e12, 1228 * GB, 300 * GB, cores=2),
    "v5e": Chip("v5e", 16 * 2**30, 197e12, 819 * GB, 200 * GB),
    "v5p": Chip("v5p", 95 * 2**30, 459e12, 2765 * GB, 600 * GB),
    "v6e": Chip("v6e", 32 * 2**30, 918e12, 1638 * GB, 400 * GB),
    "tpu7x": Chip("tpu7x", 192 * 2**30, 2307e12, 7380 * GB, 600 * GB, cores=2),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Devices of one kind; ``chip`` has the figures of one device."""

    name: str
    platform: str  # tpu or cpu
    chip: Chip
    devices: Sequence[jax.Device]


def open_topology(name: str) -> Slice:
    """The slice ``KIND:SIZES``, as v5e:4x4, v5p:2x2x2, cpu:8.

    Raises:
      UserError: no such kind or size; libtpu is missing; JAX runs already with fewer CPU devices.
    """
    kind, colon, sizes = name.partition(":")
    known = (*CHIPS, "cpu")
    if kind not in known:
        raise UserError(f"--topology={name}: there is no {kind!r}{suggestion(kind, known)}")
    if not colon or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
        raise UserError(f"--topology={name}: expected {kind}:{'8' if kind == 'cpu' else '4x4'}, or other sizes")
    return _open_cpu(name, sizes) if kind == "cpu" else _open_tpu(name, CHIPS[kind], sizes)


def _open_cpu(name: str, sizes: str) -> Slice:
    count = math.prod(map(int, sizes.split("x")))
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX has begun: what it has must do
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"--topology={name}: this process runs already with {len(devices)} CPU devices")
    # no vendor's figures: one core of a common server (ours), and its share of the host's memory
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Slice(name, "cpu", Chip("cpu", memory / count, 50e9, 10 * GB, 10 * GB), devices[:count])


def _open_tpu(name: str, chip: Chip, sizes: str) -> Slice:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology={name}: needs libtpu, which compiles for TPU without one: {INSTALL}")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else it asks a cloud for the TPU that is not there
    # names of any machine: it warns where there are none, and takes the slice from what it is asked for
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is run, so several plans may stand side by side
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    counts = [int(size) for size in sizes.split("x")]
    # a host has four chips; a slice of fewer has a smaller host
    small = {} if math.prod(counts) >= 4 else {"chips_per_host_bounds": tuple(counts + [1] * (3 - len(counts)))}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **small)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].partition(": ")[2]
        raise UserError(f"--topology={name}: there is no such slice ({reason})") from None
    return Slice(name, "tpu", chip.device(), found.devices)
