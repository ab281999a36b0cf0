"""Texts to learn from: questions, candidate answers, SFT triples, labelled texts (pretraining: ``documents``).

Every function takes the testbed and a numpy Generator; texts are normalised and have at most ``TEXT_LIMIT`` tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from visa_jax.data.testbed.bed import Testbed
from visa_jax.data.testbed.grammar import LEVELS
from visa_jax.data.testbed.oracle import combine_statements
from visa_jax.data.testbed.wording import Statement, count_tokens, pick
from visa_jax.data.testbed.world import SLOTS, TOPICS, Fact
from visa_jax.types import VALUES

TEXT_LIMIT = 31  # with the end token 32
MATTERS = 5  # slots that the answers to one question draw from (ours)


class Answer(NamedTuple):
    """An answer and what it says."""

    text: str
    facts: frozenset[Fact]
    values: np.ndarray  # float32 [10]


class VisaPair(NamedTuple):
    """An SFT triple: the reference is another answer to the same question and expresses the target."""

    question: str
    source: str
    target: np.ndarray  # float32 [10]
    reference: str


def draw_topic(rng: np.random.Generator) -> str:
    """One of the topics, uniformly."""
    return pick(rng, TOPICS)


def question(testbed: Testbed, rng: np.random.Generator, topic: str, split: str = "train") -> str:
    """A question about ``topic`` of at most 6 tokens."""
    return pick(rng, testbed.wording.questions(topic, split))


def questions(testbed: Testbed, rng: np.random.Generator, n: int, split: str = "train") -> list[str]:
    """n questions about random topics."""
    return [question(testbed, rng, draw_topic(rng), split) for _ in range(n)]


def draw_levels(rng: np.random.Generator, count: int) -> list[tuple[int, float]]:
    """``count`` distinct values, each with one of the four levels."""
    return [(int(value), pick(rng, LEVELS)) for value in rng.permutation(len(VALUES))[:count]]


def join_statements(rng: np.random.Generator, statements: Sequence[Statement]) -> str:
    """The sentences in random order."""
    return " ".join(statements[i].sentence for i in rng.permutation(len(statements)))


def compose(
    testbed: Testbed,
    rng: np.random.Generator,
    facts: Sequence[Fact],
    levels: Sequence[tuple[int, float]],
    split: str = "train",
    limit: int = TEXT_LIMIT,
) -> str | None:
    """A text that says exactly this, in random wording; None if 20 draws all exceed ``limit`` tokens.

    Facts come first, in the order of ``SLOTS``, then values, in the order of ``VALUES``: people tell things in a
    customary order, and a rewriter of this size learns in minutes to go through a text, and through the levels asked
    for, from beginning to end (LOG.md).
    """
    ordered = sorted(facts, key=lambda fact: SLOTS.index(fact.slot))
    for _ in range(20):
        sentences = [testbed.wording.draw_fact(rng, fact, split).sentence for fact in ordered]
        sentences += [testbed.wording.draw_value(rng, value, level, split).sentence for value, level in sorted(levels)]
        text = " ".join(sentences)
        if count_tokens(text) <= limit:
            return text
    return None


def candidate_answers(
    testbed: Testbed,
    rng: np.random.Generator,
    topic: str,
    k: int = 4,
    facts_per_answer: int = 3,
    true_share: float = 0.5,
    split: str = "train",
    value_counts: tuple[int, ...] = (1, 2),
) -> list[Answer]:
    """``k`` answers to one question: each states ``facts_per_answer`` facts and 1 or 2 values.

    All draw their facts from the same 5 of 8 slots, as answers to one question turn on the same matters, and from one
    assignment of them (each filler true with probability ``true_share``): two answers share facts_per_answer²/5 facts
    on average and never contradict each other.
    """
    assignment = testbed.world.assignment(rng, topic, true_share)
    matters = rng.permutation(len(SLOTS))[:MATTERS]
    answers: list[Answer] = []
    while len(answers) < k:
        facts = [Fact(SLOTS[i], assignment[SLOTS[i]]) for i in rng.permutation(matters)[:facts_per_answer]]
        levels = draw_levels(rng, pick(rng, value_counts))
        text = compose(testbed, rng, facts, levels, split)
        if text is not None:
            answers.append(Answer(text, frozenset(facts), value_vector(levels)))
    return answers


def value_vector(levels: Sequence[tuple[int, float]]) -> np.ndarray:
    """float32 [10]: the clipped sum of (value, level) pairs."""
    values = np.zeros(len(VALUES), np.float32)
    for value, level in levels:
        values[value] += level
    return np.clip(values, -1.0, 1.0)


def sources(
    testbed: Testbed, rng: np.random.Generator, n: int, split: str = "train", true_share: float = 0.5
) -> list[tuple[str, Answer]]:
    """n (question, answer) pairs to rewrite: 3 facts and 1 or 2 values each."""
    drawn = []
    for _ in range(n):
        topic = draw_topic(rng)
        answer = candidate_answers(testbed, rng, topic, 1, true_share=true_share, split=split)[0]
        drawn.append((question(testbed, rng, topic, split), answer))
    return drawn


def visa_pairs(
    testbed: Testbed, rng: np.random.Generator, n: int, split: str = "train", true_share: float = 0.5
) -> list[VisaPair]:
    """n SFT triples: all ordered pairs of four candidate answers, question after question (visa.md section 7).

    References express one to three values, as many as the targets of GRPO ask for.
    The reference shares on average 3 in 5 of the source's facts, so it teaches the target values, not fidelity.
    """
    pairs: list[VisaPair] = []
    while len(pairs) < n:
        topic = draw_topic(rng)
        asked = question(testbed, rng, topic, split)
        answers = candidate_answers(testbed, rng, topic, true_share=true_share, split=split, value_counts=(1, 2, 3))
        pairs += [VisaPair(asked, a.text, b.values, b.text) for a in answers for b in answers if a is not b]
    return pairs[:n]


def corrupt(rng: np.random.Generator, text: str) -> str:
    """``text`` with one small damage: a word lost, doubled, put elsewhere too, exchanged, or the end cut off."""
    words = text.split()
    if not words:
        return text
    at = int(rng.integers(max(len(words) - 1, 1)))
    damage = int(rng.integers(5))
    if damage == 0 and len(words) > 1:
        del words[at]
    elif damage == 1:
        words.insert(at, words[at])
    elif damage == 2 and len(words) > 1:
        words[at], words[at + 1] = words[at + 1], words[at]
    elif damage == 3 and len(words) > 2:  # a word of the text once more, somewhere else
        words.insert(at, words[(at + 2) % len(words)])
    else:
        words = words[: max(len(words) - 1 - int(rng.integers(3)), 1)]
    return " ".join(words[:TEXT_LIMIT])


def _labelled_statements(testbed: Testbed, rng: np.random.Generator, split: str, short: bool) -> list[Statement]:
    """0 to 4 facts and 0 to 4 value sentences (short: 0 or 1 fact, one value sentence), every sixth of them neutral."""
    wording, assignment = testbed.wording, testbed.world.assignment(rng, draw_topic(rng), 0.5)
    facts, values = (int(rng.integers(2)), 1) if short else (0, 0)
    while facts + values == 0:
        facts, values = int(rng.integers(5)), int(rng.integers(5))
    slots = [SLOTS[i] for i in rng.permutation(len(SLOTS))[:facts]]
    drawn = [wording.draw_fact(rng, Fact(slot, assignment[slot]), split) for slot in slots]
    for _ in range(values):
        level = 0.0 if rng.random() < 1 / 6 else pick(rng, LEVELS)
        drawn.append(wording.draw_value(rng, int(rng.integers(len(VALUES))), level, split))
    return drawn


def labelled_texts(
    testbed: Testbed,
    rng: np.random.Generator,
    n: int,
    split: str = "train",
    corrupt_share: float = 0.2,
    forms: tuple[str, ...] | None = None,
    short_share: float = 0.0,
) -> tuple[list[str], np.ndarray]:
    """n texts with value labels float32 [n, 10] for the detector; a damaged text is labelled by what is still readable.

    ``short_share`` of them hold a single value sentence, from which a detector learns fastest.
    ``forms`` restricts value sentences to these forms (texts with any other are drawn again).
    """
    texts: list[str] = []
    labels: list[np.ndarray] = []
    while len(texts) < n:
        short = short_share > 0 and rng.random() < short_share
        statements = _labelled_statements(testbed, rng, split, short)
        if forms is not None and any(s.fact is None and s.form not in forms for s in statements):
            continue
        text = join_statements(rng, statements)
        if count_tokens(text) > TEXT_LIMIT:
            continue
        damaged = rng.random() < corrupt_share
        text = corrupt(rng, text) if damaged else text
        texts.append(text)
        labels.append(testbed.oracle.read_partly(text).values if damaged else combine_statements(statements).values)
    return texts, np.stack(labels) if labels else np.zeros((0, len(VALUES)), np.float32)
