"""Which text a run works on: the embedded testbed, or the user's own file."""

import dataclasses

from visa_jax.data.source import Source, make_testbed_source


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The testbed of ``seed``, unless ``path`` names a file of the user's own rows."""

    seed: int = 0


def make_source(config: DataConfig) -> Source:
    """The source that a config names."""
    return make_testbed_source(config.seed)
