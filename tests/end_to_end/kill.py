"""The kill test: SIGKILL at random moments of a run on two processes, half of them while it saves.

python -m tests.end_to_end.kill KILLS [STEPS] [DIRECTORY]      # prints the two digests; exit code 1 when they differ

The launcher starts all again each time; no hand is needed in between. The unbroken run is made first.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.training.survivor import BEGAN

ROOT = Path(__file__).resolve().parents[2]
MESH = "fsdp=4"


def launch(
    workdir: Path, steps: int, devices: int = 2, processes: int = 2, mesh: str = MESH, method: str = "moc"
) -> subprocess.Popen:
    """The launcher of a run of tests/training/survivor.py."""
    env = os.environ | {
        "CPU_DEVICES": str(devices),
        "RESTARTS": "1000",
        "COMPILED": str(workdir.parent / "compiled"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "PYTHONPATH": str(ROOT),
    }
    program = [sys.executable, "-W", "ignore", "-m", "tests.training.survivor", str(workdir), str(steps), mesh, method]
    command = ["bash", str(ROOT / "launch" / "local_processes.sh"), str(processes), "--", *program]
    with open(workdir.parent / f"{workdir.name}.log", "wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)


def children(pid: int, program: bytes = b"survivor") -> list[int]:
    """The processes of a launcher (Linux) that run ``program``."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in found}
    return [child for child, command in commands.items() if program in command]


def kill_one(launcher: subprocess.Popen, workdir: Path, saving: bool, rng: random.Random, within: float = 15.0) -> bool:
    """SIGKILL to one of the processes, soon after a save begins or ``within`` seconds; False: the run ended first."""
    wait = time.monotonic() + rng.uniform(0, within)
    began = list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    while launcher.poll() is None:
        tmp = list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
        if (tmp and tmp != began) if saving else time.monotonic() > wait:
            pids = children(launcher.pid)
            if len(pids) == 2:
                os.kill(rng.choice(pids), signal.SIGKILL)
                return True
        time.sleep(0.002)
    return False


def digest(workdir: Path) -> dict:
    return json.loads((workdir / "final.json").read_text())


def compare(
    directory: Path, kills: int, steps: int, *, seed: int = 0, within: float = 15.0, **sizes
) -> tuple[dict, dict, int, list[int]]:
    """(final.json of the unbroken run, of the killed one, how often it was killed, after which steps it began).

    It begins once more than it is killed, but one that is killed early does not come to say so. ``sizes`` as
    ``launch``.
    """
    rng = random.Random(seed)
    if not (directory / "unbroken" / "final.json").is_file():
        assert launch(directory / "unbroken", steps, **sizes).wait() == 0, (directory / "unbroken.log").read_text()[
            -2000:
        ]
    launcher, done = launch(directory / "killed", steps, **sizes), 0
    while done < kills and kill_one(launcher, directory / "killed", done % 2 == 1, rng, within):
        done += 1
        print(f"kill {done}: {time.strftime('%X')}", flush=True)
        time.sleep(1)
    code = launcher.wait()
    log = (directory / "killed.log").read_text()
    assert code == 0, log[-2000:]
    began = [int(step) for step in re.findall(rf"{BEGAN} (\d+)", log)]
    assert began == sorted(began), f"a run lost what it had saved: {began}"
    return digest(directory / "unbroken"), digest(directory / "killed"), done, began


if __name__ == "__main__":
    kills, steps = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 30
    directory = Path(sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp())
    directory.mkdir(parents=True, exist_ok=True)
    unbroken, killed, done, began = compare(directory, kills, steps)
    print(f"unbroken {unbroken}\nkilled   {killed}\n{done} kills, began after steps {began}")
    sys.exit(unbroken != killed or done < kills or began[-1] == 0)
