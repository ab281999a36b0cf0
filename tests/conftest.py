"""The strict session of all tests: four CPU devices, no silent broadcasting of ranks, no network.

What has to be set before the first array exists is set here, at import, before any test module is.
"""

import os
from collections.abc import Iterator
from pathlib import Path

# A run on an accelerator names its own platform: JAX_PLATFORMS=cuda pytest -m gpu
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import jax  # noqa: E402
import pytest  # noqa: E402

from visa_jax.training.metrics import CompileCounter  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference values and data beside the checkout; tests that need them are skipped where they are not."""
    directory = ROOT.parent / "shared"
    if not directory.is_dir():
        pytest.skip(f"no reference data: {directory} is not there")
    return directory


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 for the duration of the test; what other tests compiled stays theirs."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def compiles() -> Iterator[CompileCounter]:
    """Counts compilations; eager operations compile too, so inputs are made before `reset()`.

    compiles.reset()
    step(state, batch)
    assert compiles.count == 0, compiles.names
    """
    with CompileCounter() as counter:
        yield counter
