"""What the base model is pretrained on: four kinds of documents, each repeated until it fills a row.

A large language model knows, before any alignment, how to say the same thing again and what the names of values mean.
The testbed's base model has to learn that from somewhere, so each kind teaches one of it:

    restated   question <sep> text <sep> text ...        the same facts in other words, beside other values: copying
    described  question <sep> answer <sep> answer ...    true facts only: knowledge
    glossary   <level> sentence <level> sentence ...     what a level token means
    expressed  <level> <level> <sep> sentences <sep> ... levels first, then their sentences

No kind joins two of them: no level stands beside a text whose facts are kept, which is what a rewriter has to learn,
and nothing here has a preference in it, which is what MOC has to learn.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from visa_jax.data.symbols import SEP, level_token
from visa_jax.data.testbed.bed import Testbed
from visa_jax.data.testbed.corpus import candidate_answers, compose, draw_levels, draw_topic, question
from visa_jax.data.testbed.grammar import LEVELS
from visa_jax.data.testbed.wording import count_tokens, pick
from visa_jax.data.testbed.world import SLOTS, Fact
from visa_jax.types import VALUES

DOCUMENT_LIMIT = 66  # tokens; 68 with the begin and end tokens
SHARES = {"restated": 0.45, "described": 0.15, "glossary": 0.1, "expressed": 0.3}  # (ours)


def pretraining_documents(
    testbed: Testbed, rng: np.random.Generator, n: int, split: str = "train", shares: Mapping[str, float] = SHARES
) -> list[str]:
    """n documents of at most ``DOCUMENT_LIMIT`` tokens, without begin and end tokens.

    Args:
      shares: how likely each kind is; they sum to 1, and a kind that is not named does not occur.
    """
    names = list(shares)
    drawn = rng.choice(len(names), size=n, p=[shares[name] for name in names])
    return [_fill(KINDS[names[kind]](testbed, rng, split)) for kind in drawn]


def _fill(pieces: Iterator[str]) -> str:
    """Pieces one after the other while they fit."""
    document, length = [], 0
    for piece in pieces:
        length += count_tokens(piece)
        if length > DOCUMENT_LIMIT:
            break
        document.append(piece)
    return " ".join(document)


def _restated(testbed: Testbed, rng: np.random.Generator, split: str) -> Iterator[str]:
    """Two to four facts, each true with probability one half, or there would be nothing to copy."""
    topic = draw_topic(rng)
    assignment = testbed.world.assignment(rng, topic, 0.5)
    facts = [Fact(SLOTS[i], assignment[SLOTS[i]]) for i in rng.permutation(len(SLOTS))[: int(rng.integers(2, 5))]]
    yield question(testbed, rng, topic, split)
    most_values = 2
    while True:
        text = None
        while text is None:
            levels = draw_levels(rng, int(rng.integers(most_values + 1)))
            text = compose(testbed, rng, facts, levels, split)
        yield f"{SEP} {text}"
        most_values = 1


def _described(testbed: Testbed, rng: np.random.Generator, split: str) -> Iterator[str]:
    topic = draw_topic(rng)
    yield question(testbed, rng, topic, split)
    while True:
        facts = int(rng.integers(2, 6))
        yield f"{SEP} {candidate_answers(testbed, rng, topic, 1, facts, 1.0, split, (0, 1))[0].text}"


def _glossary(testbed: Testbed, rng: np.random.Generator, split: str) -> Iterator[str]:
    while True:
        value, level = int(rng.integers(len(VALUES))), pick(rng, LEVELS)
        yield f"{level_token(value, level)} {testbed.wording.draw_value(rng, value, level, split).sentence}"


def _expressed(testbed: Testbed, rng: np.random.Generator, split: str) -> Iterator[str]:
    while True:
        levels = sorted(draw_levels(rng, int(rng.integers(1, 4))))
        names = " ".join(level_token(value, level) for value, level in levels)
        sentences = [testbed.wording.draw_value(rng, value, level, split).sentence for value, level in levels]
        yield f"{names} {SEP} {' '.join(sentences)} {SEP}"


KINDS = {
    "restated": _restated,
    "described": _described,
    "glossary": _glossary,
    "expressed": _expressed,
}
