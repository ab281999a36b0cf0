"""The corpora: meaning equals reading, lengths, shares, splits, determinism, the size of the language."""

import itertools
import math

import numpy as np
import pytest

from visa_jax.data.testbed import FILLERS, SLOTS, TOPICS, Fact, make_testbed
from visa_jax.data.testbed.corpus import (
    TEXT_LIMIT,
    candidate_answers,
    corrupt,
    labelled_texts,
    question,
    sources,
    visa_pairs,
)
from visa_jax.data.testbed.documents import pretraining_documents
from visa_jax.data.testbed.oracle import split_sentences
from visa_jax.data.testbed.probes import PROBES, probe
from visa_jax.data.testbed.wording import count_tokens
from visa_jax.types import VALUES

BED = make_testbed(0)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_answers_say_what_they_were_made_to_say(split):
    for question_text, answer in sources(BED, rng(1), 700, split):
        meaning = BED.oracle.read(answer.text)
        assert meaning.facts == answer.facts and len(answer.facts) == 3
        np.testing.assert_array_equal(meaning.values, answer.values)
        assert 1 <= np.count_nonzero(answer.values) <= 2
        stated = [BED.oracle.statement(sentence) for sentence in split_sentences(answer.text)]
        order = [SLOTS.index(s.fact.slot) if s.fact else len(SLOTS) + s.value for s in stated]  # facts, then values
        assert order == sorted(order)
        assert count_tokens(answer.text) <= TEXT_LIMIT and count_tokens(question_text) <= 6


def test_candidates_share_three_fifths_of_their_facts():
    shared = []
    for topic in itertools.islice(itertools.cycle(TOPICS), 600):
        answers = candidate_answers(BED, rng(len(shared)), topic)
        for a, b in itertools.combinations(answers, 2):
            slots = {fact.slot: fact.filler for fact in a.facts}
            assert all(slots.get(fact.slot, fact.filler) == fact.filler for fact in b.facts)  # never a contradiction
            shared.append(len(a.facts & b.facts))
    # Hypergeometric: 3 of 5 against 3 of 5 has mean 3 * 3/5 and variance 3 * 3/5 * 2/5 * (5-3)/(5-1) = .36.
    variance = 3 * 3 / 5 * 2 / 5 * 2 / 4
    assert abs(np.mean(shared) - 9 / 5) < 4 * math.sqrt(variance / 600)  # pairs of one question are not independent
    assert abs(np.var(shared) - variance) < 0.08


def test_visa_pairs_are_ordered_pairs_of_one_question():
    pairs = visa_pairs(BED, rng(), 24)
    assert len(pairs) == 24 and len({p.question for p in pairs[:12]}) == 1
    for pair in pairs:
        assert pair.source != pair.reference
        np.testing.assert_array_equal(BED.oracle.read(pair.reference).values, pair.target)
    forward = [BED.oracle.consistency(p.source, p.reference)[0] for p in visa_pairs(BED, rng(), 2400)]
    assert abs(np.mean(forward) - 3 / 5) < 0.03


@pytest.mark.parametrize("split", ["train", "test"])
def test_split_of_corpora(split):
    other = "test" if split == "train" else "train"
    statements = BED.wording.statements
    facts = {s.sentence for f in {s.fact for s in statements if s.fact} for s in BED.wording.fact_sentences(f, other)}
    values = {
        s.sentence
        for value, level, form in {(s.value, s.level, s.form) for s in statements if not s.fact}
        for s in BED.wording.value_sentences(value, level, other, form)
    }
    texts = labelled_texts(BED, rng(), 500, split, corrupt_share=0.0)[0]
    texts += [p.reference for p in visa_pairs(BED, rng(), 200, split)]
    used = {sentence for text in texts for sentence in split_sentences(text)}
    assert used and not used & (facts | values)


def test_labels_are_readings():
    texts, labels = labelled_texts(BED, rng(), 600, corrupt_share=0.0)
    assert labels.shape == (600, 10) and labels.dtype == np.float32
    for text, label in zip(texts, labels, strict=True):
        np.testing.assert_array_equal(BED.oracle.read(text).values, label)
    assert set(np.unique(labels)) == {-1.0, -0.5, 0.0, 0.5, 1.0}
    forms = {s.form for text in texts for s in BED.oracle.read(text).statements}
    assert forms == {"fact", "plain", "negation", "irony", "neutral"}


def test_damaged_texts_are_labelled_by_what_is_readable():
    texts, labels = labelled_texts(BED, rng(), 300, corrupt_share=1.0)
    unreadable = sum(BED.oracle.read(text) is None for text in texts)
    assert unreadable > 200  # a few damages cut whole sentences or leave another one
    for text, label in zip(texts, labels, strict=True):
        np.testing.assert_array_equal(BED.oracle.read_partly(text).values, label)
        assert count_tokens(text) <= TEXT_LIMIT


def test_corrupt_changes_a_text():
    text = "it is red . found in oslo ."
    assert sum(corrupt(rng(i), text) != text for i in range(50)) == 50


@pytest.mark.parametrize("name", PROBES)
def test_probes(name):
    texts, labels = probe(BED, rng(), name, 200)
    for text, label in zip(texts, labels, strict=True):
        statements = BED.oracle.read(text).statements
        assert [s.form for s in statements if not s.fact] == [PROBES[name]]
        np.testing.assert_array_equal(BED.oracle.read(text).values, label)
        assert np.count_nonzero(label) == (name != "neutral")
    if name == "irony":
        assert labels.min(1).max() < 0  # irony never praises
    if name == "negation":
        assert 0.3 < (labels.sum(1) > 0).mean() < 0.7


def test_probe_name_is_checked():
    with pytest.raises(ValueError, match="probe 'sarcasm'"):
        probe(BED, rng(), "sarcasm", 1)


def test_there_are_more_than_a_million_texts():
    # Lower bound: 4 of 8 slots, one of at least 12 fillers each, one wording each, one value sentence, fixed order.
    smallest = min(len(words) for words in FILLERS.values())
    value_sentences = sum(s.form == "plain" for s in BED.wording.statements)
    count = math.comb(len(SLOTS), 4) * smallest**4 * value_sentences
    assert count == 70 * 12**4 * 2160 > 10**9
    longest = 4 * 5 + 6
    assert longest <= TEXT_LIMIT  # every one of them is allowed


def test_same_seed_same_texts():
    for draw in (
        lambda r: [p.source for p in visa_pairs(BED, r, 30)],
        lambda r: pretraining_documents(BED, r, 30),
        lambda r: labelled_texts(BED, r, 30)[0],
        lambda r: [question(BED, r, "mill") for _ in range(30)],
    ):
        assert draw(rng(5)) == draw(rng(5)) != draw(rng(6))


def test_texts_are_the_same_on_every_machine():
    texts = labelled_texts(make_testbed(0), rng(0), 2)[0]
    assert texts == GOLDEN


def test_facts_of_a_text_may_be_false_but_belong_to_the_slot():
    for _, answer in sources(BED, rng(2), 50, true_share=0.0):
        assert all(fact.filler in FILLERS[fact.slot] for fact in answer.facts)
    answers = candidate_answers(BED, rng(), "mill", true_share=1.0)
    assert all(BED.world.is_true("mill", fact) for answer in answers for fact in answer.facts)
    assert isinstance(next(iter(answers[0].facts)), Fact) and len(VALUES) == 10


def test_damage_leaves_nothing_as_nothing():
    assert all(corrupt(rng(seed), "") == "" for seed in range(20))
    assert all(corrupt(rng(seed), "it is red .") != "" for seed in range(20))


GOLDEN = [
    "we doubt wealth . enjoy some restraint .",
    "nature means everything . people discuss discipline . pleasure is not dull . "
    "it opened in march . mostly oak . . horse inside . cairo based .",
]
