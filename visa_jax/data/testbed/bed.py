"""One testbed: a world, its wording and the oracle that reads it."""

import dataclasses

from visa_jax.data.testbed.oracle import Oracle
from visa_jax.data.testbed.wording import Wording
from visa_jax.data.testbed.world import World


@dataclasses.dataclass(frozen=True)
class Testbed:
    """What every corpus function draws from; make it once with ``make_testbed``."""

    __test__ = False  # not a test class, whatever its name suggests to pytest

    world: World
    wording: Wording
    oracle: Oracle


def make_testbed(seed: int = 0) -> Testbed:
    """The testbed of a seed: same seed, same truth and same held-out wordings on every machine."""
    world, wording = World(seed), Wording(seed)
    return Testbed(world, wording, Oracle(world, wording))
