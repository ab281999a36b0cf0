"""Runs that survive: on a mesh, resumed on another one, asked to end; the launchers' commands."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from tests.end_to_end import kill
from tests.training.survivor import survive
from visa_jax.parallel import MeshConfig
from visa_jax.training.metrics import MetricsWriter, read_metrics
from visa_jax.training.progress import Preempted


def digest(workdir):
    return json.loads((workdir / "final.json").read_text())


@pytest.mark.usefixtures("quick_compiles")
def test_a_pre_empted_run_on_a_mesh_goes_on_bit_for_bit_and_leaves_a_trace(tmp_path, monkeypatch):
    mesh = MeshConfig(fsdp=2, tensor=2)
    survive(str(tmp_path / "unbroken"), 4, mesh, checkpoint_every=4, profile_steps=1)
    assert list((tmp_path / "unbroken" / "profile").rglob("*.xplane.pb"))
    write = MetricsWriter.write

    def write_and_ask(writer, step, metrics):
        write(writer, step, metrics)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsWriter, "write", write_and_ask)
        with pytest.raises(Preempted, match="saved step 2"):
            survive(str(tmp_path / "cut"), 4, mesh, checkpoint_every=4)
    assert not (tmp_path / "cut" / "final.json").exists()
    survive(str(tmp_path / "cut"), 4, mesh, checkpoint_every=4)
    assert digest(tmp_path / "cut") == digest(tmp_path / "unbroken")
    rows = read_metrics(tmp_path / "cut")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["seconds/host"] > 0 for row in rows)


@pytest.mark.usefixtures("quick_compiles")
@pytest.mark.parametrize(
    "mesh",
    [pytest.param(MeshConfig(way="pmap", data=4), marks=pytest.mark.slow), MeshConfig(way="pmap_sharded", fsdp=4)],
    ids=str,
)
def test_a_run_under_pmap_goes_on_bit_for_bit(tmp_path, mesh):
    """Its checkpoint holds whole arrays: it is cut again where it goes on."""
    survive(str(tmp_path / "unbroken"), 2, mesh, "visa", checkpoint_every=2)
    survive(str(tmp_path / "cut"), 1, mesh, "visa")
    assert digest(tmp_path / "cut") != digest(tmp_path / "unbroken")
    first = read_metrics(tmp_path / "cut")
    survive(str(tmp_path / "cut"), 2, mesh, "visa")
    assert read_metrics(tmp_path / "cut")[:1] == first  # to the microsecond: the first step was not done again
    assert digest(tmp_path / "cut") == digest(tmp_path / "unbroken")
    rewards = [[row["reward"] for row in read_metrics(tmp_path / name)] for name in ("cut", "unbroken")]
    assert rewards[0] == rewards[1]


@pytest.mark.slow
def test_two_processes_of_four_devices_give_the_metrics_of_one_with_eight(tmp_path):
    for name, processes in (("one", 1), ("two", 2)):
        launcher = kill.launch(tmp_path / name, 2, 8 // processes, processes, "fsdp=4,tensor=2")
        assert launcher.wait(300) == 0, (tmp_path / f"{name}.log").read_text()
    for one, two in zip(*(read_metrics(tmp_path / name) for name in ("one", "two")), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            if "second" not in name:
                np.testing.assert_allclose(two[name], one[name], atol=1e-5, err_msg=name)


def test_a_run_of_two_processes_that_is_killed_twice_ends_as_the_unbroken_one(tmp_path):
    """Once soon after its start, once while it saves. With 20 kills: python -m tests.end_to_end.kill 20"""
    unbroken, killed, kills, _ = kill.compare(tmp_path, 2, 2, within=3.0, devices=1, mesh="fsdp=2", method="visa")
    assert kills == 2
    assert killed == unbroken
    told = (tmp_path / "killed.log").read_text()
    assert told.count("ended with 137; all are started again") == 2


@pytest.mark.slow
def test_killed_runs_end_with_the_parameters_of_the_unbroken_one(tmp_path):
    unbroken, killed, kills, began = kill.compare(tmp_path, 3, 6)
    assert kills == 3 and began[-1] > 0  # it went on, it did not start over
    assert killed == unbroken


def test_the_launcher_starts_all_again_and_gives_up_where_that_is_useless(root, tmp_path):
    """Process 1 is killed at the first start; its peer would wait for ever."""
    script = (
        f'echo "$VISA_JAX_PROCESS of $VISA_JAX_PROCESSES" >> {tmp_path}/starts; '
        f'if [ ! -e {tmp_path}/died ]; then [ "$VISA_JAX_PROCESS" = 0 ] && exec sleep 60; '
        f"touch {tmp_path}/died; kill -KILL $$; fi"
    )
    launcher = ["bash", str(root / "launch" / "local_processes.sh"), "2", "--"]
    done = subprocess.run([*launcher, "bash", "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted((tmp_path / "starts").read_text().splitlines()) == ["0 of 2"] * 2 + ["1 of 2"] * 2
    assert "ended with 137; all are started again (1 of 10)" in done.stderr
    for code in (1, 2, 130):
        done = subprocess.run([*launcher, "bash", "-c", f"exit {code}"], capture_output=True, timeout=20, check=False)
        assert done.returncode == code and b"again" not in done.stderr
    # JAX aborts whoever has lost process 0: that is no failure of its own
    for codes in ("1 134", "134 1"):
        fail = f"set -- {codes}; shift $VISA_JAX_PROCESS; exit $1"
        done = subprocess.run([*launcher, "bash", "-c", fail], capture_output=True, timeout=20, check=False)
        assert done.returncode == 1 and b"again" not in done.stderr


def test_ctrl_c_reaches_each_process_once(root, tmp_path):
    """Of a terminal it comes to the launcher's whole group. Each process can be interrupted, and hears of it once."""
    script = (
        "import os, pathlib, signal, time\n"
        f"told = pathlib.Path({str(tmp_path)!r}) / os.environ['VISA_JAX_PROCESS']\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "signal.signal(signal.SIGINT, lambda *_: told.open('a').write('x'))\n"
        "told.touch()\n"
        "end = time.monotonic() + 30\n"
        "while not told.read_text() and time.monotonic() < end: time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        "raise SystemExit(130)\n"
    )
    launcher = ["bash", str(root / "launch" / "local_processes.sh"), "2", "--", sys.executable, "-c", script]
    # as a terminal starts it, whatever started the tests
    fresh = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", fresh, *launcher], start_new_session=True) as started:
        try:
            wait_until(lambda: all((tmp_path / name).exists() for name in "01"))
        finally:
            os.killpg(started.pid, signal.SIGINT)
    assert started.returncode == 130
    assert [(tmp_path / name).read_text() for name in "01"] == ["x", "x"]


def wait_until(found, seconds=20.0):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_dry_run_prints_the_commands(root):
    launcher = ["bash", str(root / "launch" / "local_processes.sh"), "2", "--", "visa-jax", "train", "--workdir=x"]
    env = os.environ | {"DRY_RUN": "1", "CPU_DEVICES": "4"}
    printed = subprocess.run(launcher, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed == [
        f"VISA_JAX_COORDINATOR=127.0.0.1:PORT VISA_JAX_PROCESSES=2 VISA_JAX_PROCESS={i} VISA_JAX_CPU_DEVICES=4 "
        "visa-jax train --workdir=x"
        for i in (0, 1)
    ]


@pytest.mark.parametrize(
    ("script", "settings", "expected"),
    [
        (
            "tpu_pod.sh",
            {"TPU": "slice", "ZONE": "here"},
            "gcloud compute tpus tpu-vm ssh slice --zone=here --worker=all --command=cd visa_jax && "
            "source launch/setup.sh && VISA_JAX_COORDINATOR=auto exec visa-jax train --workdir=a\\ b\n",
        ),
        (
            "slurm.sbatch",
            {},
            "srun --kill-on-bad-exit=1 --export=ALL,VISA_JAX_COORDINATOR=auto visa-jax train --workdir=a b\n",
        ),
        (
            "slurm.sbatch",
            {"SLURM_GPUS_ON_NODE": "4"},
            "JAX_LOCAL_DEVICE_IDS=0,1,2,3 srun --kill-on-bad-exit=1 --export=ALL,VISA_JAX_COORDINATOR=auto "
            "visa-jax train --workdir=a b\n",
        ),
    ],
)
def test_dry_runs_of_real_machines(root, script, settings, expected):
    command = ["bash", str(root / "launch" / script), "visa-jax", "train", "--workdir=a b"]
    subprocess.run(["bash", "-n", command[1]], check=True)
    env = os.environ | {"DRY_RUN": "1"} | settings
    assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout == expected
    refused = subprocess.run(command[:2], env=env, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "visa-jax train" in refused.stderr


def test_dry_run_of_a_jobset(root):
    sizes = {"NAME": "visa", "IMAGE": "image", "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4"}
    env = os.environ | {"DRY_RUN": "1", "HOSTS": "4", "CHIPS": "4", "CLAIM": "runs"} | sizes
    command = ["bash", str(root / "launch" / "gke_jobset.sh"), "visa-jax", "train", '--config.x="y"']
    jobset = yaml.safe_load(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 10
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    pod = job["template"]["spec"]
    assert pod["containers"][0]["command"] == ["visa-jax", "train", '--config.x="y"']
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
