"""The language: one meaning per sentence, lengths, splits, determinism."""

import itertools
import math

import numpy as np
import pytest

from visa_jax.data.testbed import FILLERS, SLOTS, TOPICS, Fact, Wording, World
from visa_jax.data.testbed.grammar import (
    FACT_PATTERNS,
    KEYWORDS_BY_VALUE,
    LEVELS,
    QUESTION_PATTERNS,
    VALUE_PATTERNS,
)
from visa_jax.data.testbed.wording import count_tokens, held_out_grid, normalise
from visa_jax.types import VALUES

WORDING = Wording(0)


def test_no_sentence_has_two_meanings():
    sentences = [statement.sentence for statement in WORDING.statements]
    assert len(set(sentences)) == len(sentences)
    facts = sum(len(words) * 6 for words in FILLERS.values())  # 6 wordings a slot
    values = 10 * 6 * (4 * 9 + 4 * 4 + 2 * 4 + 8)  # values * keywords * (plain + negation + irony + neutral patterns)
    assert len(sentences) == facts + values


def test_words_belong_to_one_place():
    fillers = list(itertools.chain(*FILLERS.values()))
    keywords = list(itertools.chain(*KEYWORDS_BY_VALUE))
    patterns = [*itertools.chain(*FACT_PATTERNS.values()), *QUESTION_PATTERNS]
    patterns += [p for by_level in VALUE_PATTERNS.values() for group in by_level.values() for p in group]
    in_patterns = {word for pattern in patterns for word in pattern.split()}
    groups = [fillers, keywords, list(TOPICS), sorted(in_patterns)]
    everything = list(itertools.chain(*groups))
    assert len(set(everything)) == len(everything)


def test_world_has_the_promised_size():
    assert len(SLOTS) == 8 and len(TOPICS) == 40 and len(set(TOPICS)) == 40
    assert all(12 <= len(words) <= 16 for words in FILLERS.values())


def test_lengths_and_numbers_of_wordings():
    for slot, words in FILLERS.items():
        for filler in words:
            lengths = [count_tokens(s.sentence) for s in WORDING.fact_sentences(Fact(slot, filler), "all")]
            assert sorted(lengths) == [3, 3, 4, 4, 5, 5]
    for value, level in itertools.product(range(10), LEVELS):
        sentences = [s.sentence for s in WORDING.value_sentences(value, level, "all")]
        lengths = [count_tokens(sentence) for sentence in sentences]
        assert len(sentences) >= 48 and min(lengths) == 4 and max(lengths) <= 6 and lengths.count(4) >= 12
    for topic in TOPICS:
        assert all(count_tokens(text) <= 6 for text in WORDING.questions(topic, "all"))


@pytest.mark.parametrize("statement", [("safety matters most .", 1.0), ("safety is not vital .", -0.5)])
def test_declared_levels(statement):
    sentence, level = statement
    found = [s for s in WORDING.statements if s.sentence == sentence]
    assert [(VALUES[s.value], s.level) for s in found] == [("Security", level)]


def test_splits_are_disjoint_and_cover():
    for value, level, form in [(v, x, f) for f, by in VALUE_PATTERNS.items() for x in by for v in range(10)]:
        train, test, both = (WORDING.value_sentences(value, level, s, form) for s in ("train", "test", "all"))
        assert test and not set(train) & set(test) and set(train) | set(test) == set(both)
        share = len(test) / len(both)
        assert 0.1 <= share <= 0.3, (VALUES[value], level, form, share)
    for slot, words in FILLERS.items():
        for filler in words:
            train, test = (WORDING.fact_sentences(Fact(slot, filler), split) for split in ("train", "test"))
            assert test and train and not set(train) & set(test)


def test_every_word_and_pattern_occurs_in_training():
    for form, by_level in VALUE_PATTERNS.items():
        for level, patterns in by_level.items():
            for value, keywords in enumerate(KEYWORDS_BY_VALUE):
                texts = {s.sentence[:-2] for s in WORDING.value_sentences(value, level, "train", form)}
                for pattern in patterns:
                    assert any(pattern.replace("{k}", k) in texts for k in keywords)
                for keyword in keywords:
                    assert any(pattern.replace("{k}", keyword) in texts for pattern in patterns)


def test_held_out_grid_is_a_fifth():
    grid = held_out_grid(np.random.default_rng(3), 10, 15)
    assert grid.sum() == 30  # 10 * 15 / 5: each residue class of 10 meets each of 15 equally often
    assert grid.any(0).all() and grid.any(1).all() and not grid.all(0).any() and not grid.all(1).any()


def test_seed_decides_everything():
    assert World(4).truth == World(4).truth != World(5).truth
    split = [WORDING.value_sentences(0, 1.0, "test"), Wording(0).value_sentences(0, 1.0, "test")]
    assert split[0] == split[1] != Wording(1).value_sentences(0, 1.0, "test")
    # Golden: the same on every machine, because PCG64 and Generator.permutation are.
    assert " ".join(World(0).truth["mill"].values()) == "ivan porto december ten black pig wine iron"


def test_assignment_has_the_share_of_truth_it_is_asked_for():
    world, rng = World(0), np.random.default_rng(0)
    for share in (0.0, 0.5, 1.0):
        drawn = [world.assignment(rng, "mill", share) for _ in range(200)]
        right = np.mean([world.is_true("mill", Fact(*item)) for one in drawn for item in one.items()])
        deviation = math.sqrt(share * (1 - share) / 1600)
        assert abs(right - share) <= 4 * deviation


def test_normalise():
    assert normalise("It is Red.  Found in OSLO .") == "it is red . found in oslo ."
    assert normalise("more daring, less bound to tradition") == "more daring , less bound to tradition"
