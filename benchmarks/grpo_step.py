"""One GRPO step on a workload, ours and a peer's, measured beside each other.

    python benchmarks/grpo_step.py --workload=M|S|P [--peer=tunix|trl] [--steps=4] [--repeats=3]

Prints one JSON line: medians over ``repeats`` processes of ``seconds_per_step, rollout_tokens_per_second,
rollout_seconds, reference_seconds, update_seconds, peak_rss_mib, first_step_seconds``, and of ours the rate of a
matrix product in the same process, the arithmetic floor that it gives and the floor's share of a step. With ``--peer``
the processes of both alternate, so that a noisy machine is noisy for both; ``ratio`` is how many times less ours takes
(of tokens a second: how many times more it makes), the median of the pairs. Peers: ``benchmarks/peers/install.sh``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from workloads import WORKLOADS

HERE = Path(__file__).resolve().parent
PEERS = ("tunix", "trl")
RATIOS = ("seconds_per_step", "rollout_seconds", "reference_seconds", "update_seconds", "peak_rss_mib")


def command(side: str) -> list[str]:
    if side == "own":
        return [sys.executable, str(HERE / "own_step.py")]
    python = HERE / "peers" / f".venv-{side}" / "bin" / "python"
    if not python.is_file():
        sys.exit(f"{side} is not installed: bash benchmarks/peers/install.sh {side}")
    return [str(python), str(HERE / "peers" / f"{side}_step.py")]


def measure(side: str, workload: str, steps: int) -> dict:
    """The JSON line of one process."""
    environment = dict(os.environ)
    if side == "own":  # this checkout, whatever is installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), environment.get("PYTHONPATH"))))
    done = subprocess.run(
        [*command(side), f"--workload={workload}", f"--steps={steps}"], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def middle(runs: list[dict]) -> dict:
    """The median of each number; the rest as in the first run."""
    return {
        name: statistics.median(run[name] for run in runs) if isinstance(value, int | float) else value
        for name, value in runs[0].items()
    }


def ratios(own: list[dict], peer: list[dict]) -> dict:
    result = {name: statistics.median(p[name] / o[name] for o, p in zip(own, peer, strict=True)) for name in RATIOS}
    name = "rollout_tokens_per_second"
    result[name] = statistics.median(o[name] / p[name] for o, p in zip(own, peer, strict=True))
    return {name: round(value, 3) for name, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="M")
    parser.add_argument("--peer", choices=PEERS)
    parser.add_argument("--steps", type=int, default=0, help="timed steps of a process; 0 = the workload's own number")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each side")
    options = parser.parse_args()
    sides = ["own", *([options.peer] if options.peer else [])]
    runs = {side: [] for side in sides}
    for _ in range(options.repeats):
        for side in sides:
            runs[side].append(measure(side, options.workload, options.steps))
    result = {"workload": options.workload, **middle(runs["own"])}
    if options.peer:
        result |= {"peer": {"name": options.peer, **middle(runs[options.peer])}}
        result |= {"ratio": ratios(runs["own"], runs[options.peer])}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
