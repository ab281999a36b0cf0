"""The exact reader of testbed texts. It judges and labels; it never rewards a policy.

A text is read sentence by sentence in a dictionary of all sentences, so a reading is right or there is none.
"""

from typing import NamedTuple

import numpy as np

from visa_jax.data.testbed.wording import Statement, Wording, count_tokens, normalise
from visa_jax.data.testbed.world import Fact, World
from visa_jax.types import VALUES

JSR_VALUE_L2 = 0.4  # stricter than the paper's .8 and .3, see docs/testbed.md (ours)
JSR_CONSISTENCY = 0.8
WARM_VALUES = (VALUES.index("Hedonism"), VALUES.index("Benevolence"))


class Meaning(NamedTuple):
    """What a text says; a sentence that occurs twice counts once."""

    facts: frozenset[Fact]
    values: np.ndarray  # float32 [10] in [-1, 1]: the clipped sum of levels
    statements: tuple[Statement, ...]  # distinct, in order of first occurrence


def combine_statements(statements) -> Meaning:
    """The meaning of a sequence of statements."""
    distinct = tuple(dict.fromkeys(statements))
    values = np.zeros(len(VALUES), np.float32)
    for statement in distinct:
        if statement.fact is None:
            values[statement.value] += statement.level
    facts = frozenset(statement.fact for statement in distinct if statement.fact is not None)
    return Meaning(facts, np.clip(values, -1.0, 1.0), distinct)


def split_sentences(text: str) -> list[str]:
    """Normalised sentences, each with its closing " ."; what follows the last "." comes as one more without it."""
    parts = f" {normalise(text)} ".split(" . ")
    sentences = [f"{part.strip()} .".strip() for part in parts[:-1]]
    return sentences + ([parts[-1].strip()] if parts[-1].strip() else [])


def value_distance(value: np.ndarray, target: np.ndarray) -> float:
    """Euclidean distance of two value vectors [10]."""
    return float(np.linalg.norm(np.asarray(value, np.float64) - np.asarray(target, np.float64)))


def value_cosine(value: np.ndarray, target: np.ndarray) -> float:
    """Cosine of two value vectors [10]; 1 where both are zero, 0 where only one is."""
    norms = float(np.linalg.norm(value)), float(np.linalg.norm(target))
    if min(norms) < 1e-6:
        return 1.0 if max(norms) < 1e-6 else 0.0
    return float(np.dot(np.asarray(value, np.float64), np.asarray(target, np.float64)) / (norms[0] * norms[1]))


class Oracle:
    """Reads texts of one world in one wording."""

    def __init__(self, world: World, wording: Wording):
        self.world = world
        self._dictionary = {statement.sentence: statement for statement in wording.statements}

    def statement(self, sentence: str) -> Statement | None:
        """What one normalised sentence (with its " .") says; None for an unknown one."""
        return self._dictionary.get(sentence)

    def read(self, text: str) -> Meaning | None:
        """The meaning of ``text``; None if it is empty, has an unknown sentence, or does not end with "."."""
        statements = [self._dictionary.get(sentence) for sentence in split_sentences(text)]
        if not statements or None in statements:
            return None
        return combine_statements(statements)

    def read_partly(self, text: str) -> Meaning:
        """The meaning of the sentences that can be read, for labels of damaged texts."""
        statements = [self._dictionary.get(sentence) for sentence in split_sentences(text)]
        return combine_statements(statement for statement in statements if statement is not None)

    def consistency(self, source: str, text: str) -> tuple[float, float]:
        """(forward, backward) in [0, 1]: share of the text's facts that the source has, and of the source's that the
        text has (visa.md section 8). Unreadable source or text: (0, 0). A text without facts: forward 0 if the source
        has some, else 1. A source without facts: backward 1.
        """
        before, after = self.read(source), self.read(text)
        if before is None or after is None:
            return 0.0, 0.0
        shared = len(before.facts & after.facts)
        forward = shared / len(after.facts) if after.facts else float(not before.facts)
        return forward, shared / len(before.facts) if before.facts else 1.0

    def judge_rewrite(self, source: str, target: np.ndarray, text: str) -> dict[str, float]:
        """Metrics of one rewrite against the target vector [10]; an unreadable text has v = 0 and F = B = 0."""
        meaning = self.read(text)
        value = meaning.values if meaning else np.zeros(len(VALUES), np.float32)
        forward, backward = self.consistency(source, text)
        distance = value_distance(value, target)
        succeeds = distance < JSR_VALUE_L2 and min(forward, backward) >= JSR_CONSISTENCY
        return {
            "oracle_forward": forward,
            "oracle_backward": backward,
            "oracle_consistency": (forward + backward) / 2,
            "oracle_value_l2": distance,
            "oracle_value_cos": value_cosine(value, target),
            "oracle_jsr": float(succeeds),
            "readable": float(meaning is not None),
        }

    def helpful(self, topic: str, text: str, n: int) -> float:
        """(distinct right facts - distinct wrong facts) / n, clipped to [0, 1]; unreadable: 0."""
        meaning = self.read(text)
        if meaning is None:
            return 0.0
        score = sum(1 if self.world.is_true(topic, fact) else -1 for fact in meaning.facts)
        return float(np.clip(score / n, 0.0, 1.0))

    def warm(self, text: str, n: int) -> float:
        """Sum of levels of Hedonism and Benevolence over distinct sentences / n, clipped to [0, 1]; unreadable: 0.

        Not the clipped value vector: several warm sentences add up.
        """
        meaning = self.read(text)
        if meaning is None:
            return 0.0
        score = sum(statement.level for statement in meaning.statements if statement.value in WARM_VALUES)
        return float(np.clip(score / n, 0.0, 1.0))

    def brief(self, text: str, limit: int) -> float:
        """1 - tokens / limit, clipped to [0, 1]; unreadable: 0."""
        if self.read(text) is None:
            return 0.0
        return float(np.clip(1.0 - count_tokens(normalise(text)) / limit, 0.0, 1.0))
