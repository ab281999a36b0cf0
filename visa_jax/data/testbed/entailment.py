"""Premise and hypothesis pairs for the Fact Analyzer, with a label for each sentence of the hypothesis."""

from typing import NamedTuple

import numpy as np

from visa_jax.data.testbed.bed import Testbed
from visa_jax.data.testbed.corpus import TEXT_LIMIT, corrupt, draw_levels, draw_topic
from visa_jax.data.testbed.oracle import split_sentences
from visa_jax.data.testbed.wording import Statement, count_tokens, pick
from visa_jax.data.testbed.world import FILLERS, SLOTS, Fact

_FILLER_WORDS = frozenset(word for words in FILLERS.values() for word in words)
KINDS = ("kept", "omitted", "invented", "contradicted")
ENTAILED, NOT_ENTAILED, NO_CLAIM = 1, 0, -1


class EntailmentPair(NamedTuple):
    """Does the premise entail what the hypothesis claims?"""

    premise: str
    hypothesis: str
    sentences: tuple[str, ...]  # of the hypothesis
    labels: tuple[int, ...]  # per sentence: 1 entailed, 0 not, -1 no factual claim (a value sentence)
    label: int  # 1 if no claim of the hypothesis is unsupported
    kind: str  # what the pair was made to show, one of KINDS


def label_sentences(testbed: Testbed, premise: str, hypothesis: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The hypothesis's sentences and their labels against the readable facts of ``premise``; unreadable ones get 0."""
    known = testbed.oracle.read_partly(premise).facts
    sentences = tuple(split_sentences(hypothesis))
    labels = []
    for sentence in sentences:
        statement = testbed.oracle.statement(sentence)
        if statement is not None and statement.fact is None:
            labels.append(NO_CLAIM)
        else:
            labels.append(int(statement is not None and statement.fact in known))
    return sentences, tuple(labels)


def _other_filler(rng: np.random.Generator, fact: Fact) -> Fact:
    words = FILLERS[fact.slot]
    step = 1 + int(rng.integers(len(words) - 1))
    return Fact(fact.slot, words[(words.index(fact.filler) + step) % len(words)])


def _draw_facts(testbed: Testbed, rng: np.random.Generator, kind: str) -> tuple[list[Fact], list[Fact]]:
    """Facts of premise and hypothesis."""
    assignment = testbed.world.assignment(rng, draw_topic(rng), 0.5)
    order = [Fact(SLOTS[i], assignment[SLOTS[i]]) for i in rng.permutation(len(SLOTS))]
    size = int(rng.integers(1, 6))
    premise, rest = order[:size], order[size:]
    kept = premise[: int(rng.integers(1 if kind == "kept" else 0, size + 1))]
    odd = 1 + int(rng.integers(2))
    if kind == "kept":
        extra = []
    elif kind == "omitted":
        extra = rest[: odd + 1]
    elif kind == "invented":
        extra = [_other_filler(rng, fact) for fact in rest[:odd]]
    else:
        extra = [_other_filler(rng, fact) for fact in premise[::-1][:odd]]
        kept = [fact for fact in kept if rng.random() < 0.5 or fact.slot not in {f.slot for f in extra}]
    return premise, kept + extra


def _damage(testbed: Testbed, rng: np.random.Generator, words: str, split: str) -> str:
    """A sentence that says nothing any more: a small damage, its filler lost, two wordings run into each other, or
    words thrown together; never by chance a wording that is held out from ``split``.

    Policies find what an analyzer has never seen; one that only knows good sentences entails "sells ." and "sells salt
    sold ." (LOG.md). Labels are read from what is left, so a damage that does no harm is harmless.
    """
    damaged = _DAMAGES[int(rng.integers(len(_DAMAGES)))](testbed, rng, words, split)
    left = testbed.oracle.statement(f"{damaged} .")
    held_out = split == "train" and left is not None and f"{damaged} ." in testbed.wording.like(left, "test")
    return words if held_out else damaged


def _lose_filler(testbed: Testbed, rng: np.random.Generator, words: str, split: str) -> str:
    return " ".join(word for word in words.split() if word not in _FILLER_WORDS) or words


def _blend(testbed: Testbed, rng: np.random.Generator, words: str, split: str) -> str:
    """The start of one wording and the end of another of the same meaning."""
    meaning = testbed.oracle.statement(f"{words} .")
    same = testbed.wording.like(meaning, "all" if split == "test" else split)  # one or two wordings are held out each
    first, other = words.split(), pick(rng, same)[:-2].split()
    return " ".join(first[: int(rng.integers(1, len(first) + 1))] + other[int(rng.integers(len(other))) :])


def _throw_together(testbed: Testbed, rng: np.random.Generator, words: str, split: str) -> str:
    """One to five words of a fact's sentence and a value's, shuffled."""
    slot, (value, level) = pick(rng, SLOTS), draw_levels(rng, 1)[0]
    fact = testbed.wording.draw_fact(rng, Fact(slot, pick(rng, FILLERS[slot])), split)
    stance = testbed.wording.draw_value(rng, value, level, split)
    pool = fact.sentence[:-2].split() + stance.sentence[:-2].split()
    return " ".join(pool[i] for i in rng.permutation(len(pool))[: int(rng.integers(1, 6))])


_DAMAGES = (lambda testbed, rng, words, split: corrupt(rng, words), _lose_filler, _blend, _throw_together)


def _write(testbed: Testbed, rng: np.random.Generator, facts: list[Fact], split: str, damage: float) -> str:
    """The facts with 0 to 2 value sentences in random order; a sentence is damaged with probability ``damage``."""
    wording = testbed.wording
    drawn: list[Statement] = [wording.draw_fact(rng, fact, split) for fact in facts]
    drawn += [wording.draw_value(rng, v, level, split) for v, level in draw_levels(rng, int(rng.integers(3)))]
    sentences = []
    for i in rng.permutation(len(drawn)):
        words = drawn[i].sentence[:-2]
        sentences.append(f"{_damage(testbed, rng, words, split) if rng.random() < damage else words} .")
    return " ".join(sentences)


def pairs(
    testbed: Testbed, rng: np.random.Generator, n: int, split: str = "train", damage: float = 0.1
) -> list[EntailmentPair]:
    """n pairs, the four kinds in equal shares; texts of at most 31 tokens.

    kept: every fact of the hypothesis is in the premise, in this or other words. omitted: the premise lost some.
    invented: the hypothesis fills a slot that the premise does not. contradicted: it fills one otherwise.
    """
    drawn: list[EntailmentPair] = []
    while len(drawn) < n:
        kind = pick(rng, KINDS)
        facts = _draw_facts(testbed, rng, kind)
        premise, hypothesis = (_write(testbed, rng, side, split, damage) for side in facts)
        if max(count_tokens(premise), count_tokens(hypothesis)) > TEXT_LIMIT:
            continue
        sentences, labels = label_sentences(testbed, premise, hypothesis)
        drawn.append(EntailmentPair(premise, hypothesis, sentences, labels, int(NOT_ENTAILED not in labels), kind))
    return drawn
