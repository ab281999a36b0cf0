"""A command line as a user types it, and what it may be typed on."""

import shutil
from collections.abc import Callable

import pytest

from visa_jax.cli import main as cli


@pytest.fixture
def call(capsys):
    """Run a command line: (exit code, standard output, standard error)."""

    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run([str(word) for word in argv])
        told = capsys.readouterr()
        return code, told.out, told.err.strip()

    return call


@pytest.fixture
def refused() -> Callable[[tuple[int, str, str]], str]:
    """What `call` gave -> the one line of a refusal."""

    def refused(told: tuple[int, str, str]) -> str:
        code, out, error = told
        assert code in (1, 2) and out == "" and "Traceback" not in error and "\n" not in error, told
        return error

    return refused


@pytest.fixture
def visa(chain):
    """A finished VISA run, not to be changed."""
    return chain.directory / "visa"


@pytest.fixture
def copied(chain, tmp_path):
    """A run that a test may damage."""
    return lambda name: shutil.copytree(chain.directory / name, tmp_path / name)
