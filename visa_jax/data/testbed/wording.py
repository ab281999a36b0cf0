"""All sentences with their meanings, and the split of wordings into training and held-out ones.

One in five (word, pattern) combinations is held out of training corpora, on a shifted diagonal: each word and each
pattern still occurs in training, only their meeting is new. Splits: "train", "test" (held out), "all".
"""

import dataclasses
import re
from typing import NamedTuple

import numpy as np

from visa_jax.data.testbed.grammar import (
    FACT_PATTERNS,
    KEYWORDS_BY_VALUE,
    QUESTION_PATTERNS,
    VALUE_PATTERNS,
)
from visa_jax.data.testbed.world import FILLERS, TOPICS, Fact

SPLITS = ("train", "test", "all")
PLAIN_SHARE = 0.8  # of value sentences in corpora; the rest is negation and irony (ours)
_PUNCTUATION = re.compile(r"([.,?!;:\-])")


class Statement(NamedTuple):
    """What one sentence says: a fact, or a level of one value (0 for a neutral mention)."""

    sentence: str  # with the closing " ."
    fact: Fact | None
    value: int  # index into VALUES, -1 for a fact
    level: float  # in {-1, -0.5, 0, 0.5, 1}
    form: str  # "fact" or one of grammar.FORMS


def normalise(text: str) -> str:
    """Lower case, punctuation set apart, single spaces: the only spelling the oracle knows."""
    return " ".join(_PUNCTUATION.sub(r" \1 ", text.lower()).split())


def count_tokens(text: str) -> int:
    """Length of a normalised text in words and punctuation marks."""
    return len(text.split())


def held_out_grid(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """bool [rows, columns]: about one fifth True, never a whole row or column (for at least 2 of each)."""
    row_shift, column_shift = rng.permutation(rows), rng.permutation(columns)
    return (row_shift[:, None] + column_shift[None, :]) % 5 == 0


def pick(rng: np.random.Generator, options):
    """One of ``options``, uniformly."""
    return options[int(rng.integers(len(options)))]


def _fill(patterns: tuple[str, ...], mark: str, words: tuple[str, ...], held: np.ndarray) -> dict:
    """(word, split) -> tuple of texts."""
    table: dict = {}
    for row, word in enumerate(words):
        texts = [pattern.replace(mark, word) for pattern in patterns]
        table[word, "all"] = tuple(texts)
        table[word, "test"] = tuple(text for text, out in zip(texts, held[row], strict=True) if out)
        table[word, "train"] = tuple(text for text, out in zip(texts, held[row], strict=True) if not out)
    return table


@dataclasses.dataclass(frozen=True)
class Wording:
    """Every sentence of the testbed; drawing methods take a numpy Generator and a split."""

    seed: int = 0
    statements: tuple[Statement, ...] = dataclasses.field(init=False, repr=False)
    _facts: dict = dataclasses.field(init=False, repr=False)
    _values: dict = dataclasses.field(init=False, repr=False)
    _questions: dict = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        rng = np.random.default_rng([self.seed, 2])
        statements, facts, values = [], {}, {}
        for slot, patterns in FACT_PATTERNS.items():
            held = held_out_grid(rng, len(FILLERS[slot]), len(patterns))
            table = _fill(patterns, "{f}", FILLERS[slot], held)
            for (filler, split), texts in table.items():
                drawn = tuple(Statement(f"{text} .", Fact(slot, filler), -1, 0.0, "fact") for text in texts)
                facts[slot, filler, split] = drawn
                statements += drawn if split == "all" else ()
        for form, by_level in VALUE_PATTERNS.items():
            for level, patterns in by_level.items():
                for value, words in enumerate(KEYWORDS_BY_VALUE):
                    held = held_out_grid(rng, len(words), len(patterns))
                    table = _fill(patterns, "{k}", words, held)
                    for (_, split), texts in table.items():
                        drawn = tuple(Statement(f"{text} .", None, value, level, form) for text in texts)
                        key = value, level, form, split
                        values[key] = values.get(key, ()) + drawn
                        statements += drawn if split == "all" else ()
        held = held_out_grid(rng, len(TOPICS), len(QUESTION_PATTERNS))
        object.__setattr__(self, "statements", tuple(statements))
        object.__setattr__(self, "_facts", facts)
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_questions", _fill(QUESTION_PATTERNS, "{t}", TOPICS, held))

    def fact_sentences(self, fact: Fact, split: str) -> tuple[Statement, ...]:
        """All wordings of ``fact`` in ``split``; never empty."""
        return self._facts[fact.slot, fact.filler, split]

    def value_sentences(self, value: int, level: float, split: str, form: str = "plain") -> tuple[Statement, ...]:
        """All wordings of a level (0 with form "neutral") in ``split``; empty where the form has no such level."""
        return self._values.get((value, level, form, split), ())

    def like(self, statement: Statement, split: str) -> tuple[str, ...]:
        """All sentences of ``split`` with the meaning and form of ``statement``."""
        if statement.fact is not None:
            same = self.fact_sentences(statement.fact, split)
        else:
            same = self.value_sentences(statement.value, statement.level, split, statement.form)
        return tuple(one.sentence for one in same)

    def questions(self, topic: str, split: str) -> tuple[str, ...]:
        """All questions about ``topic`` in ``split``, each of at most 6 tokens."""
        return self._questions[topic, split]

    def draw_fact(self, rng: np.random.Generator, fact: Fact, split: str) -> Statement:
        """A random wording of ``fact``."""
        return pick(rng, self._facts[fact.slot, fact.filler, split])

    def draw_value(self, rng: np.random.Generator, value: int, level: float, split: str) -> Statement:
        """A wording of ``level``: plain in 4 of 5 cases, else negated or ironic; level 0 is a neutral mention."""
        if level == 0.0:
            return pick(rng, self._values[value, 0.0, "neutral", split])
        form = "plain"
        if rng.random() >= PLAIN_SHARE:
            form = "irony" if level < 0 and rng.random() < 0.5 else "negation"
        return pick(rng, self._values[value, float(level), form, split])
