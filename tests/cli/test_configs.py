"""Every page of configs/ loads, plain and tiny, and its argument string is read strictly."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from visa_jax.cli.flags import UsageError, load_config_file
from visa_jax.config import from_json, to_json

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.name for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common", "pods"))


@pytest.fixture(scope="module")
def parse_arg():
    spec = importlib.util.spec_from_file_location("configs_common", ROOT / "configs" / "common.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.parse_arg


def test_argument_string_is_read_as_the_type_of_the_default(parse_arg):
    defaults = {"tiny": False, "seed": 0, "rate": 0.5, "name": "a"}
    assert parse_arg(None, **defaults).to_dict() == defaults
    assert parse_arg("", **defaults).to_dict() == defaults
    given = parse_arg("tiny, seed=3,rate=1e-3,name=b", **defaults).to_dict()
    assert given == {"tiny": True, "seed": 3, "rate": 0.001, "name": "b"}
    assert parse_arg("tiny=false", tiny=True).tiny is False


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("tny", "unknown argument 'tny'; did you mean 'tiny'"),
        ("zzz=1", "unknown argument 'zzz'; known: tiny, seed"),
        ("seed", "argument seed: expected seed=<int>"),
        ("seed=1.5", "argument seed=1.5: expected int"),
        ("tiny=maybe", "argument tiny=maybe: expected true or false"),
    ],
)
def test_unknown_or_unreadable_arguments_are_refused(arg, message, parse_arg):
    with pytest.raises(ValueError, match=message):
        parse_arg(arg, tiny=False, seed=0)


@pytest.mark.skipif(importlib.util.find_spec("visa_jax_configs") is None, reason="visa_jax is not installed here")
@pytest.mark.parametrize("arg", ["", ":tiny"])
@pytest.mark.parametrize("page", PAGES)
def test_page_loads_and_survives_json(page, arg):
    config = load_config_file(f"{ROOT / 'configs' / page}{arg}")
    assert config.is_locked
    assert from_json(to_json(config)).to_dict() == config.to_dict()
    with pytest.raises(UsageError, match=f"{page} line [0-9]+: unknown argument 'nonsense'"):
        load_config_file(f"{ROOT / 'configs' / page}:nonsense")


@pytest.mark.parametrize("page", PAGES)
def test_page_says_what_it_is_and_imports_nothing_of_the_package(page):
    program = (
        "import runpy, sys; page = runpy.run_path(sys.argv[1]);"
        "assert page['__doc__'] and 'visa-jax' in page['__doc__'], 'the docstring gives the command';"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('visa_jax', 'jax')]"
    )
    command = [sys.executable, "-c", program, str(ROOT / "configs" / page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
