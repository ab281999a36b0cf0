"""MOC on the testbed: answers under a length limit with their oracle scores, and the enumerated front (moc.md §10)."""

from typing import NamedTuple

import numpy as np

from visa_jax.data.testbed.bed import Testbed
from visa_jax.data.testbed.corpus import corrupt, draw_topic, question
from visa_jax.data.testbed.grammar import FACT_PATTERNS, LEVELS, VALUE_PATTERNS
from visa_jax.data.testbed.oracle import WARM_VALUES
from visa_jax.data.testbed.wording import Statement, count_tokens, pick
from visa_jax.data.testbed.world import SLOTS, Fact

ANSWER_LIMIT = 24  # tokens: eight shortest facts or six shortest warm sentences (ours)
SCORE_COUNT = 6  # n of helpful and warm: six right facts, or warm sentences of level 1 six times, score 1 (ours)
OBJECTIVES = ("helpful", "warm", "brief")


class ScoredAnswer(NamedTuple):
    """A question, an answer and the oracle's scores in the order of ``OBJECTIVES``."""

    topic: str
    question: str
    text: str
    scores: np.ndarray  # float32 [3] in [0, 1]


def score_answer(
    testbed: Testbed, topic: str, text: str, max_tokens: int = ANSWER_LIMIT, n: int = SCORE_COUNT
) -> np.ndarray:
    """float32 [3]: helpful, warm, brief by the oracle."""
    oracle = testbed.oracle
    return np.array([oracle.helpful(topic, text, n), oracle.warm(text, n), oracle.brief(text, max_tokens)], np.float32)


def _warm_statement(testbed: Testbed, rng: np.random.Generator, split: str, odd_share: float) -> Statement:
    """A sentence for Hedonism or Benevolence; with ``odd_share`` one against them or about another value."""
    if rng.random() < odd_share:
        return testbed.wording.draw_value(rng, int(rng.integers(10)), pick(rng, LEVELS), split)
    return testbed.wording.draw_value(rng, pick(rng, WARM_VALUES), pick(rng, (0.5, 1.0, 1.0)), split)


def moc_answer(
    testbed: Testbed,
    rng: np.random.Generator,
    topic: str,
    max_tokens: int = ANSWER_LIMIT,
    split: str = "train",
    *,
    wrong_share: float = 0.1,
    odd_share: float = 0.05,
    repeat_share: float = 0.05,
) -> str:
    """An answer of at most ``max_tokens`` tokens with a random split between facts and warm sentences.

    Facts are wrong with ``wrong_share``; a sentence repeats an earlier one with ``repeat_share``. One answer in four
    stops early, so that short answers occur too.
    """
    fact_share = rng.random()
    budget = int(rng.integers(4, max_tokens + 1)) if rng.random() < 0.25 else max_tokens
    slots = [SLOTS[i] for i in rng.permutation(len(SLOTS))]
    assignment = testbed.world.assignment(rng, topic, 1.0 - wrong_share)
    sentences: list[str] = []
    failures = 0
    while failures < 3:
        if sentences and rng.random() < repeat_share:
            sentence = pick(rng, sentences)
        elif slots and rng.random() < fact_share:
            sentence = testbed.wording.draw_fact(rng, Fact(slots[-1], assignment[slots[-1]]), split).sentence
        else:
            sentence = _warm_statement(testbed, rng, split, odd_share).sentence
        if count_tokens(sentence) > budget:
            failures += 1
            continue
        if slots and testbed.oracle.statement(sentence).fact is not None:
            slots = slots[:-1]
        sentences.append(sentence)
        budget -= count_tokens(sentence)
    return " ".join(sentences[i] for i in rng.permutation(len(sentences)))


def moc_answers(
    testbed: Testbed,
    rng: np.random.Generator,
    n: int,
    max_tokens: int = ANSWER_LIMIT,
    split: str = "train",
    corrupt_share: float = 0.0,
    wrong_share: float = 0.1,
    score_count: int = SCORE_COUNT,
) -> list[ScoredAnswer]:
    """n answers to random questions with their scores: for SFT, and with ``corrupt_share`` > 0 for reward models.

    A damaged text that cannot be read any more scores 0 on each objective.
    """
    answers = []
    while len(answers) < n:
        topic = draw_topic(rng)
        text = moc_answer(testbed, rng, topic, max_tokens, split, wrong_share=wrong_share)
        if rng.random() < corrupt_share:
            text = corrupt(rng, text)
        if not 0 < count_tokens(text) <= max_tokens:
            continue
        asked = question(testbed, rng, topic, split)
        answers.append(ScoredAnswer(topic, asked, text, score_answer(testbed, topic, text, max_tokens, score_count)))
    return answers


def _sentence_length(pattern: str) -> int:
    return count_tokens(pattern) + 1  # the closing "."


def shortest_lengths() -> tuple[list[int], dict[float, int]]:
    """Tokens of the shortest sentence per slot (ascending), and per positive level of a value."""
    facts = sorted(min(map(_sentence_length, patterns)) for patterns in FACT_PATTERNS.values())
    levels = {
        level: min(_sentence_length(p) for by_level in VALUE_PATTERNS.values() for p in by_level.get(level, ()))
        for level in LEVELS
        if level > 0
    }
    return facts, levels


def enumerate_front(
    length_limit: int = ANSWER_LIMIT, n: int = SCORE_COUNT, n_warm: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(achievable, front): float64 [P, 2] and [F, 2], the (helpful, warm) that texts of ``length_limit`` tokens score.

    For each number of right facts and of warm half-steps the shortest text is known from the grammar; wrong facts and
    cold sentences only cost. ``n`` divides facts, ``n_warm`` (default n) divides warm levels. Sorted by helpful.
    """
    n_warm = n if n_warm is None else n_warm
    fact_lengths, level_lengths = shortest_lengths()
    most_halves = 2 * (length_limit // min(level_lengths.values()))
    points = {(0.0, 0.0)}
    for facts in range(len(fact_lengths) + 1):
        used = sum(fact_lengths[:facts])
        for halves in range(most_halves + 1):
            fulls = range(halves // 2 + 1)
            need = min(level_lengths[1.0] * full + level_lengths[0.5] * (halves - 2 * full) for full in fulls)
            if used + need <= length_limit:
                points.add((min(facts / n, 1.0), min(halves / (2 * n_warm), 1.0)))
    achievable = np.array(sorted(points))
    better = (achievable[None] >= achievable[:, None]).all(-1) & (achievable[None] > achievable[:, None]).any(-1)
    return achievable, achievable[~better.any(1)]
