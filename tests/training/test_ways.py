"""One function, four ways: jit, mesh, pmap with whole and with cut parameters give the numbers of one device."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.training import ways
from visa_jax.config import FieldError
from visa_jax.parallel import MeshConfig
from visa_jax.training.pmapped import deal
from visa_jax.training.programs import make_rollout

pytestmark = pytest.mark.usefixtures("quick_compiles")
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=["visa", "moc"])
def alone(request):
    """(method, its run on one device)."""
    return request.param, ways.run(request.param)


@pytest.mark.parametrize("mesh", ways.ways(4), ids=str)
def test_every_way_gives_the_numbers_of_one_device(alone, mesh):
    method, expected = alone
    assert ways.difference(expected, ways.run(method, mesh)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["2", "8"])
def test_every_way_of_both_methods(root, devices):
    env = os.environ | {"PYTHONPATH": str(root), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    command = [sys.executable, "-m", "tests.training.ways", devices]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = done.stdout.splitlines()
    assert len(found) == 2 * len(ways.ways(int(devices)))
    assert all(float(line.split()[-1]) < TOLERANCE for line in found), done.stdout


@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=2, tensor=2), MeshConfig(way="pmap_sharded", fsdp=4)], ids=str)
def test_adapters_and_micro_batches_on_a_mesh(mesh):
    """Adapters on an int8 base, two epochs of two minibatches of two pieces: each piece lies on all devices."""
    choices = {"steps": 1, "epochs": 2, "minibatches": 2}
    expected = ways.run("visa", choices=choices, lora=True, quantize="int8")
    choices |= {"micro_batches": 1 if mesh.way == "pmap_sharded" else 2, "rollout_batches": 2}
    assert ways.difference(expected, ways.run("visa", mesh, choices=choices, lora=True, quantize="int8")) < TOLERANCE


def test_prompts_drawn_in_pieces_get_the_completions_of_all_at_once():
    experiment, params, ref_params, _ = ways.make_run("visa")

    def draw(pieces):
        rollout = jax.jit(make_rollout(experiment, ways.make_config(rollout_batches=pieces)))
        return rollout(params, ref_params, ways.prompts_fn(None, 0), jax.random.key(3))

    expected, found = draw(1), draw(4)
    for name in ("completion_BT", "mask_BT"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.logp_BT, expected.logp_BT, atol=1e-5)
    np.testing.assert_array_equal(found.prompts.prompt_NL, expected.prompts.prompt_NL)
    assert len(np.unique(expected.completion_BT, axis=0)) > 8  # rows of equal prompts differ, and so would equal noise


def test_every_piece_of_a_step_is_spread_over_all_devices():
    """Eight prompts, two pieces, two devices: device 0 has 0, 1 of the first piece and 4, 5 of the second."""
    np.testing.assert_array_equal(deal(8, 2, 2), [[0, 1, 4, 5], [2, 3, 6, 7]])


@pytest.mark.parametrize(
    ("mesh", "parts", "choices", "message"),
    [
        (MeshConfig(fsdp=3), {}, {}, "1 x 3 x 1 = 3, but there are 4 devices"),
        (MeshConfig(data=-1, tensor=3), {}, {}, "4 devices, the other axes take 3"),
        (MeshConfig(data=4), {}, {"prompts_per_step": 6}, "6 prompts do not divide into 4 devices"),
        (MeshConfig(data=4), {}, {"micro_batches": 4}, "8 prompts in 4 pieces"),
        (MeshConfig(data=4), {}, {"rollout_batches": 4}, "8 prompts in 4 pieces"),
        (
            MeshConfig(tensor=4),
            {"heads": 8, "kv_heads": 2},
            {},
            "2 along kv_heads do not divide into 4 devices of tensor",
        ),
        (MeshConfig(fsdp=4), {"width": 34}, {}, "34 along embed do not divide into 4 devices of fsdp"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_both_numbers(mesh, parts, choices, message):
    with pytest.raises(FieldError, match=message):
        ways.run("visa", mesh, choices=choices, **parts)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(data=-1, fsdp=-1),
        dict(tensor=0),
        dict(way="tpu"),
        dict(way="pmap", fsdp=2),
        dict(way="pmap_sharded", data=2),
    ],
    ids=str,
)
def test_impossible_meshes_are_refused(wrong):
    with pytest.raises(FieldError):
        MeshConfig(**wrong)
