"""The strict session of all tests: four CPU devices, no silent broadcasting of ranks, no network.

What has to be set before the first array exists is set here, at import, before any test module is.
"""

import contextlib
import functools
import importlib.util
import os
import types
from collections.abc import Callable, Iterator
from pathlib import Path

# A run on an accelerator names its own platform: JAX_PLATFORMS=cuda pytest -m gpu
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import pytest

from visa_jax.training.metrics import CompileCounter

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


@contextlib.contextmanager
def compile_quickly(cache: Path) -> Iterator[None]:
    """Hardly optimised programs, each compiled once a session: for tests whose time is compilation."""
    from jax.experimental.compilation_cache import compilation_cache

    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: jax.config.values[name] for name in settings}
    try:
        for name, setting in settings.items():
            jax.config.update(name, setting)
        compilation_cache.reset_cache()  # JAX decides at its first compilation whether there is one
        yield
    finally:
        for name, setting in before.items():
            jax.config.update(name, setting)
        compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def quickly(compile_cache) -> Callable:
    """`with quickly(): ...` is `compile_quickly`, for fixtures that outlive a test."""
    return functools.partial(compile_quickly, compile_cache)


@pytest.fixture
def quick_compiles(compile_cache) -> Iterator[None]:
    """`compile_quickly` for one test."""
    with compile_quickly(compile_cache):
        yield


def load_beside(name: str) -> types.ModuleType:
    """The module of a file beside this one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def published() -> types.ModuleType:
    """tests/published.py, which writes tiny Hugging Face directories."""
    return load_beside("published")


@pytest.fixture(scope="session")
def chain(tmp_path_factory, compile_cache) -> types.ModuleType:
    """tests/chain.py, with the tiny runs that it makes in `chain.directory`; tests must not change these."""
    module = load_beside("chain")
    with compile_quickly(compile_cache):
        module.directory = module.build_chain(tmp_path_factory.mktemp("chain"))
    return module
