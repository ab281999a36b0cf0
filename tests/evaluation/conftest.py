"""A made-up run, written to a directory: every number is invented by this file and measures nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

VALUES = ("Achievement", "Security", "Tradition", "Benevolence")
METRICS = ("consistency_forward", "consistency_backward", "consistency", "value_l2", "value_cos", "jsr")
VISA = {
    "copy": (1.0, 1.0, 1.0, 1.53, 0.02, 0.0),
    "prompted": (0.91, 0.84, 0.875, 1.31, 0.21, 0.04),
    "sft": (0.49, 0.46, 0.475, 0.42, 0.93, 0.06),
    "visa": (0.95, 0.93, 0.94, 0.31, 0.96, 0.83),
    "visa_loop": (0.95, 0.94, 0.945, 0.27, 0.97, 0.88),
}
MOC = {  # hyper-volume, tau, tau_unseen, control error, sparsity, how strongly the policy follows p, how high it gets
    "linear_ppo": (0.36, 0.62, 0.55, 0.22, 0.11, 3.0, 0.86),
    "fixed_half": (0.44, 0.9, 0.86, 0.041, 0.021, 0.8, 0.88),
    "moc": (0.52, 0.97, 0.93, 0.025, 0.009, 1.0, 0.96),
}


def obtained(p: float, slope: float, height: float) -> np.ndarray:
    """A point near a bulging front: steep slopes jump from corner to corner."""
    share = 1 / (1 + np.exp(-slope * 6 * (p - 0.5)))
    return height * np.array([share**0.6, (1 - share) ** 0.6])


def moc_points(rng: np.random.Generator, slope: float, height: float) -> list[dict]:
    points = []
    for p, unseen in [(x / 10, False) for x in range(11)] + [(float(x), True) for x in rng.uniform(0, 1, 6).round(2)]:
        oracle = obtained(p, slope, height) + rng.normal(0, 0.012, 2)
        learned = 0.9 * oracle + 0.08 + rng.normal(0, 0.012, 2)
        point = {"preference": [p, 1 - p], "oracle": oracle.tolist(), "learned": learned.tolist(), "unseen": unseen}
        points.append(point | {"scaled": oracle.tolist()})
    return points


def fish_section(rng: np.random.Generator, *, idle: bool) -> dict:
    rows, points = {}, {}
    for name, (slope, error) in {"linear_ppo": (8.0, 0.05), "fixed_half": (0.9, 0.002), "moc": (0.8, 0.001)}.items():
        rows[name] = {"tau": 0.99 - error * 4, "control_error": error, "seconds": 7.3} | (
            {"hypervolume": 0.5 - error} if idle else {}
        )
        points[name] = []
        for p in np.linspace(0, 1, 11):
            share = float(p) if slope < 1 else float(1 / (1 + np.exp(-40 * (p - 0.5))))
            scaled = np.clip(np.array([share, 1 - share]) * (0.95 if idle else 1.0) + rng.normal(0, 0.02, 2), 0, 1)
            reward = [20 * scaled[0], 180 * scaled[1]]
            points[name].append({"preference": [float(p), 1 - float(p)], "reward": reward, "scaled": scaled.tolist()})
    return {
        "objectives": ["fish", "wood"],
        "reference_point": [0, 0],
        "rows": rows,
        "points": points,
        "front": [[0, 180], [20, 0]],
    }


def value_points(rng: np.random.Generator, noise: float) -> list[dict]:
    target = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], size=(60, 10), p=[0.08, 0.1, 0.64, 0.1, 0.08])
    found = np.clip(target * (1 - noise) + rng.normal(0, noise / 2, target.shape), -1, 1)
    return [
        {"target": t.tolist(), "detected": f.tolist(), "oracle": f.tolist()} for t, f in zip(target, found, strict=True)
    ]


def synthetic_summary(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    shake = lambda x: float(x + rng.normal(0, 0.012)) if 0 < x < 1 else float(x)
    visa_rows = {}
    for name, numbers in VISA.items():
        row = {metric: shake(x) for metric, x in zip(METRICS, numbers, strict=True)}
        visa_rows[name] = row | {f"oracle_{m}": shake(x - 0.01) for m, x in row.items()} | {"oracle_unreadable": 0.01}
    moc_rows = {}
    for name, (volume, tau, unseen, error, sparsity, *_) in MOC.items():
        row = {"hypervolume": shake(volume), "tau": shake(tau), "tau_unseen": shake(unseen), "control_error": error}
        row |= {"sparsity": sparsity, "range": [0.8, 0.7], "monotone": 0.9}
        moc_rows[name] = row | {f"learned_{key}": number for key, number in row.items()}
    angle = np.linspace(0, np.pi / 2, 30)
    front = np.stack([np.sin(angle) ** 0.8, np.cos(angle) ** 0.8], axis=1)
    shifts = {"0.5–1": 1.0, "1–1.5": 0.96, "1.5–2": 0.92, "> 2": 0.85}
    return {
        "seed": seed,
        "mode": "standard",
        "machine": {"cores": 2, "jax": "0.10.2", "flax": "0.12.8", "python": "3.11.2", "platform": "cpu"},
        "visa": {"rows": visa_rows, "points": {"sft": value_points(rng, 0.35), "visa": value_points(rng, 0.15)}},
        "moc": {
            "objectives": ["helpful", "warm"],
            "reference_point": [0, 0],
            "rows": moc_rows,
            "points": {name: moc_points(rng, *numbers[5:]) for name, numbers in MOC.items()},
            "front": front.tolist(),
            "normalizer": {"helpful": [0.11, 0.93], "warm": [-0.02, 0.88]},
        },
        "fishwood": fish_section(rng, idle=False),
        "fishwood_idle": fish_section(rng, idle=True),
        "supervised": {
            "detector": {
                "cosine": 0.96,
                "macro_f1": 0.94,
                "mae": 0.05,
                "pearson": 0.97,
                "l2": 0.21,
                "probe_negation": 0.91,
                "probe_neutral": 0.98,
                "probe_irony": 0.44,
                "calibration": [[x, 0.9 * x, int(60 * (1.2 - abs(x)))] for x in np.linspace(-1, 1, 9)],
            },
            "detector_judge": {
                "cosine": 0.95,
                "macro_f1": 0.93,
                "probe_negation": 0.89,
                "calibration": [[x, 0.95 * x + 0.03, 40] for x in np.linspace(-1, 1, 9)],
            },
            "translator": {"mae": 0.06, "sign_accuracy": 0.97, "false_activation": 0.02},
            "analyzer": {"accuracy": 0.97, "sentence_accuracy": 0.98},
            "reward_model": {"r2": {"helpful": 0.93, "warm": 0.95}},
        },
        "compiles": {"generate": 2, "update_visa": 1, "update_moc": 1},
        "seconds": {
            "supervised": {"used": 121.4, "budget": 120},
            "base language model": {"used": 84.0, "budget": 90},
            "visa": {"used": 183.2, "budget": 200},
            "moc": {"used": 160.0, "budget": 180},
            "report": {"used": 6.1, "budget": None},
        },
        "claims": [
            {
                "claim": "VISA keeps the facts better than SFT",
                "expected": "oracle consistency ≥ 0.9",
                "measured": "0.94 against 0.47",
                "holds": True,
            },
            {
                "claim": "MOC has a higher hyper-volume than linear PPO",
                "expected": "difference > 0",
                "measured": "0.52 − 0.36",
                "holds": True,
            },
            {
                "claim": "min-norm helps beyond c = ½",
                "expected": "hyper-volume above the ablation's",
                "measured": "0.44 against 0.44",
                "holds": False,
            },
            {
                "claim": "prompting trades consistency for values",
                "expected": "as in the paper",
                "measured": None,
                "holds": None,
            },
        ],
        "visa_bins": {
            name: [
                {
                    "shift": s,
                    "count": 40,
                    "value_l2": 0.2 + level * (1.2 - f),
                    "oracle_consistency": f * (1 - level / 4),
                }
                for s, f in shifts.items()
            ]
            for name, level in {"sft": 1.2, "visa": 0.3}.items()
        },
        "leakage": {"visa": {"mean": 0.04, "worst": "Tradition"}, "sft": {"mean": 0.12, "worst": "Power"}},
        "alignment_tax": {"drift_neutral": 0.0, "perplexity_before": 4.1, "perplexity_after": 4.1},
    }


def synthetic_track(rng: np.random.Generator, objectives: tuple[str, ...], steps: int) -> list[dict]:
    track = []
    for step in range(steps):
        rise = 1 - np.exp(-3 * step / steps)
        record = {
            "step": step,
            "reward": 0.2 + 0.7 * rise + rng.normal(0, 0.04),
            "kl": 2.5 * rise + rng.normal(0, 0.05),
        }
        record |= {
            "entropy": 1.9 - rise + rng.normal(0, 0.04),
            "completions/mean_length": 22 - 4 * rise + rng.normal(0, 0.7),
        }
        record |= {
            "grad_norm": 0.6 + rng.exponential(0.2),
            "control/error": 0.2 * (1 - rise) + 0.02 + rng.exponential(0.01),
        }
        for index, name in enumerate(objectives):
            level = (0.3 + 0.5 * rise) * (1 - 0.2 * index)
            record[f"rewards/{name}/mean"] = level + rng.normal(0, 0.03)
            record[f"moo/weights/{name}"] = 0.5 + (0.2 - 0.4 * index) * rise + rng.normal(0, 0.05)
            if step % 25 == 0:
                record[f"oracle/{name}"] = level - 0.06
        track.append(record)
    return track


def synthetic_samples(method: str, count: int) -> list[dict]:
    made = []
    for index in range(count):
        row = {
            "prompt": f"Question {index}: how did the old bridge come to be mended? Answer as {method} would.",
            "source": "Four masons mended the old bridge in spring. They kept the stones as they always were.",
            "completion": "In spring four masons mended the old bridge, and it will hold whoever crosses it.",
            "rewards": {"value_match": 0.91, "semantic": 0.84},
            "oracle": {"forward": 1.0, "backward": 0.75, "value_l2": 0.21},
        }
        made.append(
            row | ({"preference": [0.3, 0.7]} if method in MOC else {"target": {"Security": 0.5, "Tradition": -0.5}})
        )
    return made


def write_synthetic_run(directory: Path, seed: int = 0, steps: int = 120) -> Path:
    rng = np.random.default_rng(100 + seed)
    (directory / "curves").mkdir(parents=True)
    (directory / "samples").mkdir()
    (directory / "summary.json").write_text(json.dumps(synthetic_summary(seed)), encoding="utf-8")
    tracks = {"visa": ("value_match", "semantic"), **{name: ("helpful", "warm") for name in MOC}}
    for name, objectives in tracks.items():
        lines = [json.dumps(record) for record in synthetic_track(rng, objectives, steps)]
        (directory / "curves" / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in (*VISA, *MOC):
        (directory / "samples" / f"{name}.json").write_text(json.dumps(synthetic_samples(name, 12)), encoding="utf-8")
    return directory


@pytest.fixture
def make_synthetic_run(tmp_path: Path) -> Callable[..., Path]:
    """make_synthetic_run(name="a", seed=0, steps=12): the directory of a finished, made-up run."""

    def make(name: str = "a", seed: int = 0, steps: int = 12) -> Path:
        return write_synthetic_run(tmp_path / name, seed, steps)

    return make
