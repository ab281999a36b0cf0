"""Supervised parts on a mesh are those of one device, lie in pieces there, and go on where they stopped."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.end_to_end.kill import children
from visa_jax import checkpoint
from visa_jax.cli import main as cli
from visa_jax.cli.supervise import SuperviseConfig, open_start, supervise
from visa_jax.data.source import make_testbed_source
from visa_jax.parallel import MeshConfig, make_mesh
from visa_jax.training import workdir as workdirs
from visa_jax.training.metrics import read_metrics
from visa_jax.training.optimizer import OptimizerConfig
from visa_jax.training.policy import PolicyConfig
from visa_jax.training.roles import LANGUAGE_MODELS, RoleConfig
from visa_jax.training.supervised import FitConfig

MESH = MeshConfig(data=2, fsdp=2)
TENSOR = MeshConfig(fsdp=2, tensor=2)  # the testbed's words do not divide into two
INT8 = PolicyConfig(lora_rank=2, lora_alpha=4.0, lora_pattern="attention/(query|value)|mlp/.*", quantize="int8")
# a step of its size, not of its sign alone: Adam's first step is the sign of a gradient, however small
GRADIENT = OptimizerConfig(name="adamw", learning_rate=1.0, eps=1.0, weight_decay=0.0, decay="constant", warmup=0.0)
ALONE = MeshConfig()
pytestmark = pytest.mark.usefixtures("quick_compiles")


def config_of(chain, role, start="", mesh=ALONE, steps=3, optimizer=GRADIENT, **changes):
    fit = FitConfig(steps=steps, batch_size=4, optimizer=optimizer)
    more = {name: changes.pop(name) for name in ("twins", "objective") if name in changes}
    role = RoleConfig(role=role, rows=8, trunk=chain.TRUNK, fit=fit, **more)
    return SuperviseConfig(role=role, start=str(start), mesh=mesh, **changes)


def share(tree) -> float:
    """What the first device has of it, of all bytes."""
    leaves = jax.tree.leaves(tree)
    return sum(x.addressable_shards[0].data.nbytes for x in leaves) / sum(x.nbytes for x in leaves)


@pytest.fixture
def shares(monkeypatch):
    """``share`` of the parameters and of the optimizer's state that each run began with."""
    seen, fit = [], workdirs.fit

    def look(task, config, state, **options):
        seen.append((share(state.params), share(state.opt_state)))
        return fit(task, config, state, **options)

    monkeypatch.setattr(workdirs, "fit", look)
    return seen


@pytest.mark.parametrize(
    ("role", "start", "changes"),
    [
        ("base", "", {"patience": 1, "evaluate_every": 2}),
        pytest.param("visa_sft", "base", {}, marks=pytest.mark.slow),
        ("moc_sft", "model", {"policy": INT8, "patience": 2, "evaluate_every": 1, "mesh": TENSOR}),
        ("visa_sft", "converted", {"mesh": TENSOR}),
        ("detector", "", {"twins": 2}),
        pytest.param("reward_model", "base", {"twins": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_part_on_a_mesh_is_that_of_one_device(role, start, changes, chain, tmp_path, shares, monkeypatch):
    changes = dict(changes)
    monkeypatch.setattr("visa_jax.evaluation.parts.ROWS", 8)
    if start in ("model", "converted"):
        chain.real_model(tmp_path / "model", kv_heads=2)
    if start == "converted":
        assert cli.run(["convert", f"--model={tmp_path / 'model'}", f"--out={tmp_path / 'converted'}"]) == 0
    start = start and (chain.directory if start == "base" else tmp_path) / start
    source, made, spread = make_testbed_source(), [], changes.pop("mesh", MESH)
    for name, mesh in (("alone", ALONE), ("spread", spread)):
        config = config_of(chain, role, start, mesh, **changes)
        if role == "moc_sft":
            sft = dataclasses.replace(config.role, preferences=chain.PREFERENCES)
            config = dataclasses.replace(config, role=sft)
        devices = None if mesh == ALONE else make_mesh(mesh)
        made.append(supervise(config, tmp_path / name, source, open_start(config, source, devices), devices))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *made)
    lines = [read_metrics(tmp_path / name) for name in ("alone", "spread")]
    assert abs(lines[0][0]["loss"] - lines[0][1]["loss"]) > 1e-3  # something was learned
    assert lines[0] == [pytest.approx(line, rel=1e-4, abs=1e-6) for line in lines[1]] and len(lines[0]) == 2
    told = [json.loads((tmp_path / name / "quality.json").read_text()) for name in ("alone", "spread")]
    assert np.ravel(told[0].get("held_out_loss", 0)) == pytest.approx(np.ravel(told[1].get("held_out_loss", 0)))
    assert ("held_out_loss" in told[0]) == ("patience" in changes)
    assert shares[0] == (1, 1)
    assert max(shares[1]) < 0.55 if role in LANGUAGE_MODELS else shares[1] == (1, 1)  # norms are whole


def test_sizes_that_do_not_divide_are_refused(chain, tmp_path, capsys):
    config = config_of(chain, "base", mesh=MeshConfig(data=4))
    six = dataclasses.replace(config.role, fit=dataclasses.replace(config.role.fit, batch_size=6))
    page = chain.page(tmp_path / "page.py", dataclasses.replace(config, role=six))
    assert cli.run(["supervise", f"--config={page}", f"--workdir={tmp_path / 'run'}"]) == 1
    assert "role.fit.batch_size: 6 rows do not divide into 4 devices" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    page = chain.page(tmp_path / "page.py", dataclasses.replace(config, mesh=MeshConfig(fsdp=3)))
    assert cli.run(["supervise", f"--config={page}", f"--workdir={tmp_path / 'run'}"]) == 1
    assert "data x fsdp x tensor = 1 x 3 x 1 = 3, but there are 4 devices" in capsys.readouterr().err


def test_an_interrupted_part_goes_on_bit_for_bit(chain, tmp_path, monkeypatch, capsys):
    """SIGTERM while step 3 is worked on; the same command again; on a mesh, with early stopping."""
    config = config_of(chain, "base", mesh=MESH, steps=5, patience=3, evaluate_every=1, checkpoint_every=2)
    page = chain.page(tmp_path / "page.py", config)

    def command(name):
        return cli.run(["supervise", f"--config={page}", f"--workdir={tmp_path / name}"])

    assert command("whole") == 0
    save = checkpoint.Checkpoints.save

    def save_and_preempt(checkpoints, step, state):
        path = save(checkpoints, step, state)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return path

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", save_and_preempt)
        assert command("broken") == cli.PREEMPTED
    assert "saved step 3" in capsys.readouterr().err
    assert checkpoint.latest_step(tmp_path / "broken") == 3 and not (tmp_path / "broken" / "final.json").exists()
    first_steps = []
    fit = workdirs.fit
    monkeypatch.setattr(
        workdirs, "fit", lambda *args, **options: first_steps.append(int(args[2].step)) or fit(*args, **options)
    )
    assert command("broken") == 0
    assert first_steps == [3]
    finals = [json.loads((tmp_path / name / "final.json").read_text()) for name in ("whole", "broken")]
    assert finals[0] == finals[1] and finals[0]["step"] == 5
    told = [json.loads((tmp_path / name / "quality.json").read_text())["held_out_loss"] for name in ("whole", "broken")]
    assert told[0] == told[1] and len(told[0]) == 5
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "broken")
    assert command("broken") == 0  # nothing is left to do
    assert first_steps == [3, 5] and json.loads((tmp_path / "broken" / "final.json").read_text()) == finals[0]
    changed = dataclasses.replace(config, mesh=ALONE)
    page = chain.page(tmp_path / "other.py", changed)
    capsys.readouterr()
    assert command("broken") == 1
    assert "mesh.fsdp: 2 -> 1" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_and_survive(root, chain, tmp_path):
    """Two of two devices as one of four; the same killed after a checkpoint ends with the very same parameters."""
    config = config_of(chain, "base", mesh=MeshConfig(fsdp=-1), steps=12, checkpoint_every=3)
    page = chain.page(tmp_path / "page.py", config)
    env = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}

    def begin(name, processes):
        command = [sys.executable, "-m", "visa_jax.cli.main", "supervise", f"--config={page}"]
        launcher = ["bash", str(root / "launch" / "local_processes.sh"), str(processes), "--", *command]
        more = {"CPU_DEVICES": str(4 // processes)}
        with open(tmp_path / f"{name}.log", "wb") as log:
            launcher.append(f"--workdir={tmp_path / name}")
            return subprocess.Popen(launcher, cwd=root, env=env | more, stdout=log, stderr=log)

    for name, processes in (("one", 1), ("two", 2)):
        assert begin(name, processes).wait(300) == 0, (tmp_path / f"{name}.log").read_text()
    lines = [read_metrics(tmp_path / name) for name in ("one", "two")]
    assert [pytest.approx(line, rel=1e-5, abs=1e-6) for line in lines[0]] == lines[1] and len(lines[0]) == 3

    launcher = begin("killed", 2)
    while not list((tmp_path / "killed" / "checkpoints").glob("*.json")):
        assert launcher.poll() is None, (tmp_path / "killed.log").read_text()
        time.sleep(0.01)
    os.kill(children(launcher.pid, b"supervise")[1], signal.SIGKILL)
    assert launcher.wait(300) == 0, (tmp_path / "killed.log").read_text()
    assert "ended with 137; all are started again" in (tmp_path / "killed.log").read_text()
    finals = [json.loads((tmp_path / name / "final.json").read_text()) for name in ("two", "killed")]
    assert finals[0] == finals[1] and finals[0]["step"] == 12
    assert read_metrics(tmp_path / "killed") == lines[1]
