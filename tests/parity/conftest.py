"""The stored references, and directories with the weights that they were computed with."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from visa_jax.models.weights import write_json, write_weights

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def references():
    """The module make_references.py (it imports torch only where it computes)."""
    return load_script("make_references")


@pytest.fixture(scope="session")
def encoder_references():
    """The module make_encoder_references.py."""
    return load_script("make_encoder_references")


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def stored():
    return read_stored("decoders")


@pytest.fixture(scope="session")
def encoders_stored():
    return read_stored("encoders")


def read_stored(kind):
    """``stored(case) -> (config.json, shapes, values by name)`` of ``kind``.json and ``kind``.npz."""
    told = json.loads((HERE / f"{kind}.json").read_text())
    with np.load(HERE / f"{kind}.npz") as file:
        arrays = dict(file)

    def read(case):
        values = {name.partition(" ")[2]: array for name, array in arrays.items() if name.split()[0] == case}
        gradients = {f"gradient {name}": np.asarray(pair) for name, pair in told[case]["gradients"].items()}
        return told[case]["config"], told[case]["shapes"], values | gradients

    return read


@pytest.fixture(scope="session")
def directory_of(references, stored, tmp_path_factory):
    """``directory_of(case, dtype)``: a directory as transformers would have written it, without a tokenizer."""

    def make(case, dtype=np.float32, stored=stored):
        config, shapes, _ = stored(case)
        directory = tmp_path_factory.mktemp(case)
        tensors = references.draw_weights(shapes)
        write_weights(directory, ((name, tensor.astype(dtype)) for name, tensor in tensors.items()), 20_000)
        write_json(directory / "config.json", config)
        return directory

    return make
