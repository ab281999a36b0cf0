"""From counts to seconds: a program takes at least as long as its slowest resource (Williams et al. 2009).

Compute, memory and the links between chips are taken to be busy at their published rates and all at once, so a plan is
a bound from below; real programs take longer, by a factor that a first run on the slice shows.
"""

import dataclasses
from typing import Any

from visa_jax.planning.hlo import Counts
from visa_jax.planning.programs import Compiled
from visa_jax.planning.topology import Chip


@dataclasses.dataclass(frozen=True)
class Cost:
    """One program on one device."""

    hbm_bytes: int  # held while it runs
    argument_bytes: int
    temp_bytes: int
    flops: float
    bytes: float  # read and written in HBM
    collective_bytes: dict[str, float]  # kind -> bytes that a device sends
    seconds: float
    largest_bytes: dict[str, float] = dataclasses.field(default_factory=dict)  # kind -> those of the largest one
    times: int = 1  # in a step
    bound: str = ""  # what takes the seconds: compute, memory, links
    compile_seconds: float = 0.0
    least: dict[str, float] = dataclasses.field(default_factory=dict)  # the same from the sizes alone, where known


def seconds(counts: Counts, chip: Chip) -> tuple[float, str]:
    """(at least so long, what takes it)."""
    each = {
        "compute": counts.flops / chip.flops,
        "memory": counts.bytes / chip.hbm_rate,
        "links": sum(counts.collective_bytes.values()) / chip.ici_rate,
    }
    slowest = max(each, key=each.__getitem__)
    return each[slowest], slowest


def cost(compiled: Compiled, counts: Counts, chip: Chip, *, times: int, least: dict[str, float]) -> Cost:
    """What ``counts``, of a compiled program or a part of it, come to on ``chip``."""
    took, bound = seconds(counts, chip)
    return Cost(
        hbm_bytes=compiled.hbm_bytes,
        argument_bytes=compiled.argument_bytes,
        temp_bytes=compiled.temp_bytes,
        flops=counts.flops,
        bytes=counts.bytes,
        collective_bytes=dict(counts.collective_bytes),
        largest_bytes=dict(counts.largest),
        seconds=took,
        bound=bound,
        times=times,
        compile_seconds=compiled.seconds,
        least=least,
    )


def step(costs: dict[str, Cost], chip: Chip, devices: int, tokens: int, useful_flops: float) -> dict[str, Any]:
    """The step's estimate: ``seconds``, ``tokens_per_second`` drawn, ``mfu_bound`` of update and of step."""
    total = sum(cost.seconds * cost.times for cost in costs.values())
    rate = useful_flops / (chip.flops * devices)
    return {
        "seconds": total,
        "tokens_per_second": tokens / total,
        "mfu_bound": {"update": rate / costs["update"].seconds, "step": rate / total},
    }


def fits(costs: dict[str, Cost], chip: Chip) -> bool:
    """Whether every program holds no more than a device has."""
    return all(cost.hbm_bytes <= chip.hbm_bytes for cost in costs.values())
