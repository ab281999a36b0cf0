"""Eight devices, more than the session has: what each holds, what travels, one checkpoint on three meshes."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def found(root, tmp_path_factory):
    """What eight.py prints."""
    env = os.environ | {"PYTHONPATH": str(root), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    command = [sys.executable, "-m", "tests.training.eight", str(tmp_path_factory.mktemp("eight"))]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_mesh_and_pmap_give_the_numbers_of_one_device(found):
    assert max(found["differences"]) < 1e-5


def test_a_device_holds_an_eighth_of_parameters_and_optimizer(found):
    assert 1 / 8 <= found["share"] <= 1 / 8 + 0.02


def test_a_step_of_decoding_talks_along_tensor_and_sends_one_number_over_the_rows(found):
    """One number of four bytes says that some row goes on; no loop gathers parameters."""
    assert [amount for _, _, amount in found["collectives"]["fsdp"]] == [4]
    over_rows = [(kind, amount) for kind, members, amount in found["collectives"]["tensor"] if members != 2]
    assert over_rows == [("all-reduce", 4)]
    assert len(found["collectives"]["tensor"]) > 1


def test_a_checkpoint_of_fsdp_8_goes_on_on_tensor_2_x_fsdp_4_and_on_one_device(found):
    """Restored parameters bit for bit; metrics of the next step up to float32."""
    written, metrics = found["restored"]["written"][0], found["restored"]["fsdp"][1]
    for name in ("fsdp", "tensor", "one device"):
        digest, own = found["restored"][name]
        assert digest == written
        assert own == pytest.approx(metrics, rel=1e-5, abs=1e-5)
    assert metrics["step"] == 2
