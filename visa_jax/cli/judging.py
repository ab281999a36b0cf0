"""Judging policies: the fixed rows and grids, the table rows, the samples and points of the report."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from visa_jax.cli.experiment import MocParts, VisaParts, VisaSet, learned_rewards, make_visa_set, visa_rewards
from visa_jax.cli.rewards import make_texts_fn
from visa_jax.config import UserError
from visa_jax.data.pool import moc_prompts
from visa_jax.estimators import QuantileNormalizer, scale_rewards
from visa_jax.evaluation.preferences import points, policy_rows
from visa_jax.evaluation.records import read_json
from visa_jax.evaluation.rewrites import (
    JSR_CONSISTENCY,
    JSR_L2,
    judge_rewrites,
    leakage,
    mean_row,
    named_values,
    shift_bins,
)
from visa_jax.evaluation.run import make_measure
from visa_jax.evaluation.texts import make_text_measure
from visa_jax.ops.conditions import unseen_preferences
from visa_jax.rollout.closed_loop import Looped, Measured, run_loop
from visa_jax.types import Params, PromptBatch

SAMPLES = 10
NORMALIZER = "normalizer.json"
UNSEEN_SEED = 1234


class Judged(NamedTuple):
    """A method's row of the table, and what the figures and the sample list show of it."""

    row: dict[str, float]
    rows: dict[str, np.ndarray]  # every metric per text
    samples: list[dict]
    points: list[dict]


def judge_visa(parts: VisaParts, fixed: VisaSet, texts: Sequence[str]) -> Judged:
    """Judge one text per row of a fixed set."""
    pool, target_NM = fixed.pool, fixed.target_NM
    rows = judge_rewrites(parts.readers, parts.judges, parts.source.testbed, pool.answers, target_NM, texts)
    detected_NM = parts.readers.values(parts.judges[0], texts)
    testbed = parts.source.testbed
    samples = [
        {
            "prompt": pool.questions[i],
            "source": pool.answers[i],
            "target": named_values(target_NM[i]),
            "completion": texts[i],
            "rewards": {
                "judge_value_l2": float(rows["value_l2"][i]),
                "judge_consistency": float(rows["consistency"][i]),
            },
            "oracle": {k: float(v[i]) for k, v in rows.items() if k.startswith("oracle_")},
        }
        for i in range(min(SAMPLES, len(texts)))
    ]
    shown = [
        {
            "target": [round(float(x), 3) for x in target_NM[i]],
            "detected": [round(float(x), 3) for x in detected_NM[i]],
            "oracle": _oracle_values(testbed, texts[i]),
        }
        for i in range(min(128, len(texts)))
    ]
    before_NM = parts.readers.values(parts.judges[0], pool.answers)
    row = mean_row(rows) | {"leakage": leakage(before_NM, detected_NM, target_NM)}
    return Judged(row, rows, samples, shown)


def _oracle_values(testbed, text: str) -> list[float] | None:
    meaning = testbed.oracle.read(text) if testbed is not None else None
    return None if meaning is None else [float(x) for x in meaning.values]


def visa_bins(judged: Judged, fixed: VisaSet) -> list[dict]:
    """The row again, by how far a value was asked to move."""
    return shift_bins(judged.rows, fixed.target_NM - fixed.pool.value_PM)


def make_visa_monitor(parts: VisaParts) -> Callable[[Params], dict[str, float]]:
    """``monitor(decoder params) -> oracle/* and judge/*`` on fixed held-out rows, for the learning curve."""
    fixed = make_visa_set(parts, parts.config.evaluation_rows, "test", 1.0, 99)

    def monitor(params: Params) -> dict[str, float]:
        row = judge_visa(parts, fixed, parts.sample(params, fixed.prompts, jax.random.key(0)).texts).row
        return {_curve_name(name): value for name, value in row.items()}

    return monitor


def _curve_name(name: str) -> str:
    return f"oracle/{name.removeprefix('oracle_')}" if name.startswith("oracle_") else f"judge/{name}"


def make_loop(parts: VisaParts, batch_size: int = 64) -> Callable[..., Looped]:
    """``loop(decoder params, prompts, target_NM, key, tries=4) -> Looped``: greedy first, then samples.

    It measures with the detector and the analyzer that reward, never with the judges.
    """
    config, end_id = parts.config, parts.policy.end_ids
    detect, entailment = parts.functions["detector"], parts.functions["entailment"]
    rewards, weights = visa_rewards(parts), config.visa.reward_weights
    if parts.text_rewards:
        texts_fn = make_texts_fn(parts.source.tokenizer, end_id)
        measure = make_text_measure(rewards, weights, parts.readers, texts_fn, batch_size=batch_size)
    else:
        measure = make_measure(rewards, weights, detect, entailment, end_id=end_id, batch_size=batch_size)

    def loop(params: Params, prompts: PromptBatch, target_NM: np.ndarray, key: jax.Array, tries: int = 4) -> Looped:
        def attempt(rows: np.ndarray, number: int) -> tuple[list[str], Measured]:
            asked = jax.tree.map(lambda x: np.asarray(x)[rows], prompts)
            temperature = config.loop.temperature if number else 0.0
            said = parts.sample(params, asked, jax.random.fold_in(key, number), temperature)
            return said.texts, measure(parts.rewarders, asked, said)

        return run_loop(attempt, target_NM, tries=tries, max_distance=JSR_L2, min_consistency=JSR_CONSISTENCY)

    return loop


def loop_texts(parts: VisaParts, fixed: VisaSet, params: Params, tries: int = 4, seed: int = 0) -> list[str]:
    """One text per row of a fixed set by the closed loop; rows that the greedy try satisfies cost nothing more."""
    return make_loop(parts)(params, fixed.prompts, fixed.target_NM, jax.random.key(seed), tries).texts


class MocSet(NamedTuple):
    """Questions under a grid of preferences: every preference sees every question."""

    questions: list[str]  # E
    topics: list[str] | None  # for the oracle
    preference_PK: np.ndarray
    seen_P: np.ndarray
    unseen_sets: list[np.ndarray]  # index arrays into P


def make_moc_set(parts: MocParts, questions: int, *, unseen: bool, grid: int = 11) -> MocSet:
    """Held-out questions with ``grid`` evenly spaced preferences and, asked for, four sets of ten unseen ones."""
    asked = parts.source.questions(questions, 77, "test")
    seen = np.asarray([(i / (grid - 1), 1 - i / (grid - 1)) for i in range(grid)], np.float32)
    preference, sets = seen, []
    if unseen:
        groups = unseen_preferences(UNSEEN_SEED, exclude=np.asarray(parts.config.moc.preferences))
        for group in groups:
            sets.append(np.arange(len(preference), len(preference) + len(group)))
            preference = np.concatenate([preference, group])
    topics = [parts.source.topic_of(question) for question in asked] if parts.source.topic_of else None
    return MocSet(asked, topics, preference, np.arange(len(preference)) < len(seen), sets)


def save_normalizer(workdir: Path, normalizer: QuantileNormalizer) -> None:
    """The reward scale belongs beside every scaled figure."""
    ends = {"low": np.asarray(normalizer.low_K).tolist(), "high": np.asarray(normalizer.high_K).tolist()}
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / NORMALIZER).write_text(json.dumps(ends) + "\n")


def load_normalizer(workdir: Path) -> QuantileNormalizer:
    """The reward scale that a MOC run was trained on. UserError where it is missing or broken."""
    path = workdir / NORMALIZER
    ends = read_json(path)
    if not isinstance(ends, dict) or set(ends) != {"low", "high"}:
        raise UserError(f"{path}: expected the ends of the reward scale, low and high")
    return QuantileNormalizer(low_K=np.asarray(ends["low"], np.float32), high_K=np.asarray(ends["high"], np.float32))


def judge_moc(parts: MocParts, normalizer: QuantileNormalizer, fixed: MocSet, params: Params, seed: int = 0) -> Judged:
    """Sample one completion per preference and question; judge by the held-out models (``learned_*``) and the oracle.

    Every preference meets the same questions and the same noise (common random numbers), so that what differs between
    preferences is the preference's doing. Where there is no oracle, its figures are left out.
    """
    config, source = parts.config, parts.source
    count = len(fixed.questions)
    asked = [q for _ in fixed.preference_PK for q in fixed.questions]
    prompts = moc_prompts(source, asked, np.repeat(fixed.preference_PK, count, axis=0), config.preference_encoding)
    noise_R = np.tile(np.arange(count), len(fixed.preference_PK))
    texts = parts.sample(params, prompts, jax.random.key(seed), config.loop.temperature, noise_R).texts
    learned_PEK = _grid(learned_rewards(parts, parts.judges, asked, texts), fixed)
    learned = _front(config, normalizer, fixed, learned_PEK)
    kinds, row = {"learned": learned_PEK}, {f"learned_{name}": value for name, value in learned.items()}
    if source.testbed is not None:
        topics = [t for _ in fixed.preference_PK for t in fixed.topics]
        scores = [source.score_answer(topic, text) for topic, text in zip(topics, texts, strict=True)]
        kinds["oracle"] = _grid(np.stack(scores)[:, : learned_PEK.shape[2]], fixed)
        row = _front(config, normalizer, fixed, kinds["oracle"]) | row
    means = {name: rewards_PEK.mean(axis=1) for name, rewards_PEK in kinds.items()}
    scaled_PK = np.asarray(scale_rewards(normalizer, means.get("oracle", means["learned"])))
    shown = points(fixed.preference_PK, means, scaled_PK, fixed.seen_P)
    return Judged(row, kinds, _moc_samples(parts, fixed, texts, kinds), shown)


def _grid(flat_RK: np.ndarray, fixed: MocSet) -> np.ndarray:
    return flat_RK.reshape(len(fixed.preference_PK), len(fixed.questions), -1)


def _front(config: Any, normalizer: QuantileNormalizer, fixed: MocSet, reward_PEK: np.ndarray) -> dict[str, float]:
    scaled_PEK = np.asarray(scale_rewards(normalizer, reward_PEK))
    return policy_rows(
        fixed.preference_PK, reward_PEK, scaled_PEK, fixed.seen_P, config.reference_point, fixed.unseen_sets
    )


def _moc_samples(parts: MocParts, fixed: MocSet, texts: list[str], kinds: dict[str, np.ndarray]) -> list[dict]:
    """Ten samples, spread over the seen preferences; ``rewards`` are by the held-out models."""
    names, count = parts.config.moc.reward_names, len(fixed.questions)
    samples = []
    for i in range(SAMPLES):
        p, e = i * (int(fixed.seen_P.sum()) - 1) // (SAMPLES - 1), i % count
        samples.append(
            {
                "prompt": fixed.questions[e],
                "preference": [round(float(x), 2) for x in fixed.preference_PK[p]],
                "completion": texts[p * count + e],
            }
            | {
                {"learned": "rewards"}.get(kind, kind): dict(
                    zip(names, r_PEK[p, e].astype(float).tolist(), strict=True)
                )
                for kind, r_PEK in kinds.items()
            }
        )
    return samples


def make_moc_monitor(parts: MocParts, normalizer: QuantileNormalizer) -> Callable[[Params], dict[str, float]]:
    """``monitor(decoder params) -> oracle/* and judge/*`` on the seen grid, for the learning curve."""
    fixed = make_moc_set(parts, parts.config.evaluation_questions, unseen=False)

    def monitor(params: Params) -> dict[str, float]:
        row = judge_moc(parts, normalizer, fixed, params).row
        return {
            (f"judge/{k.removeprefix('learned_')}" if k.startswith("learned_") else f"oracle/{k}"): v
            for k, v in row.items()
        }

    return monitor
