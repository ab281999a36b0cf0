"""The workloads of ``grpo_step.py``: what ours and the peers must do alike. Needs nothing but Python.

A step draws ``prompts`` x ``group`` completions, scores each by the share of its words that are even, and takes one
AdamW step of GRPO (beta .04, a reference model, clip 1.0). The end token has the id that follows the vocabulary, which
no model can produce: every completion has its full length, for ours and the peers.
"""

import argparse
import dataclasses
import json
import random
import resource
import statistics
import time

BETA, LEARNING_RATE, CLIP_NORM, TEMPERATURE = 0.04, 1e-5, 1.0, 1.0
PAD, UNKNOWN = "<pad>", "<unk>"
END = "<end>"
TIMES = ("seconds_per_step", "rollout_seconds", "reference_seconds", "update_seconds", "first_step_seconds")


@dataclasses.dataclass(frozen=True)
class Workload:
    """Sizes of a Qwen2-shaped model (tied embedding, biases of query, key, value) and of a step."""

    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    prompts: int
    group: int
    prompt: int  # tokens
    completion: int  # tokens
    steps: int  # timed ones, after the first
    micro_batches: int  # of ours: pieces of the one update of a step

    @property
    def rows(self) -> int:
        return self.prompts * self.group

    @property
    def end_id(self) -> int:
        return self.vocabulary

    def words(self) -> dict[str, int]:
        """The word-level vocabulary, the unreachable end token last."""
        names = [PAD, UNKNOWN, *(f"w{i}" for i in range(2, self.vocabulary)), END]
        return {name: i for i, name in enumerate(names)}

    def texts(self, step: int) -> list[str]:
        """``prompts`` random texts of exactly ``prompt`` words."""
        rng = random.Random(step)
        return [
            " ".join(f"w{rng.randrange(2, self.vocabulary)}" for _ in range(self.prompt)) for _ in range(self.prompts)
        ]

    def flops(self) -> float:
        """Floating-point operations of the matrix products of one step that no implementation can leave out.

        Each prompt counts once per group and no prompt token goes through the output projection, except the last.
        The policy samples (1), the reference reads (1), the policy reads and is differentiated (3). In attention a
        completion token meets its prompt and on average half of the completion.
        """
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        block = 2 * self.layers * (attention + 3 * self.width * self.mlp_width)  # a token
        head = 2 * self.width * self.vocabulary
        meet = 4 * self.layers * self.heads * self.head_dim  # a pair of tokens: scores and mix
        own, shared = self.rows * self.completion, self.prompts * self.prompt
        pairs = own * (self.prompt + self.completion / 2) + shared * self.prompt / 2
        return 5 * ((own + shared) * block + own * head + pairs * meet)


_WIDE = dict(layers=4, width=256, mlp_width=1024, heads=4, kv_heads=2, head_dim=64, vocabulary=8192)
_NARROW = dict(layers=2, width=128, mlp_width=512, heads=4, kv_heads=2, head_dim=32, vocabulary=4096, micro_batches=1)
WORKLOADS = {
    "S": Workload(prompts=4, group=4, prompt=32, completion=32, steps=30, **_NARROW),
    "M": Workload(prompts=8, group=4, prompt=64, completion=128, steps=4, micro_batches=8, **_WIDE),
    "P": Workload(prompts=4, group=16, prompt=512, completion=64, steps=3, micro_batches=4, **_WIDE),
}


def reward(text: str) -> float:
    """Share of the words of a completion that have an even number."""
    words = [word for word in text.split() if word.startswith("w")]
    return sum(word[-1] in "02468" for word in words) / max(len(words), 1)


class Timer:
    """Seconds spent in named pieces of a step, one list entry a step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._now: dict[str, float] = {}

    def add(self, name: str, seconds: float) -> None:
        self._now[name] = self._now.get(name, 0.0) + seconds

    def wrap(self, name: str, function, wait=lambda result: result):
        """``function``, its calls counted under ``name`` until ``wait(result)`` is back."""

        def timed(*args, **kwargs):
            began = time.perf_counter()
            result = wait(function(*args, **kwargs))
            self.add(name, time.perf_counter() - began)
            return result

        return timed

    def end_step(self, seconds: float) -> None:
        self.steps.append({**self._now, "step": seconds})
        self._now = {}


def record(workload: Workload, steps: list[dict[str, float]], versions: dict[str, str]) -> dict:
    """The fields of one process's run; ``steps`` have step, rollout, reference, the first one compiles."""
    middle = {name: statistics.median(step[name] for step in steps[1:]) for name in ("step", "rollout", "reference")}
    return {
        "seconds_per_step": middle["step"],
        "rollout_tokens_per_second": workload.rows * workload.completion / middle["rollout"],
        "rollout_seconds": middle["rollout"],
        "reference_seconds": middle["reference"],
        "update_seconds": middle["step"] - middle["rollout"] - middle["reference"],
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "first_step_seconds": steps[0]["step"],
        "versions": versions,
    }


def parse(description: str) -> argparse.Namespace:
    """Arguments of a script that runs one process: the workload and its number of timed steps."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, default="M")
    parser.add_argument("--steps", type=int, default=0, help="timed steps; 0 = the workload's own number")
    options = parser.parse_args()
    options.sizes = WORKLOADS[options.workload]
    options.steps = options.steps or options.sizes.steps
    return options


def show(result: dict) -> None:
    """One JSON line, seconds with four digits."""
    rounded = {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in result.items()}
    print(json.dumps(rounded), flush=True)
