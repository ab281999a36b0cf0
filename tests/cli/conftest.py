"""A command line as a user types it."""

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
