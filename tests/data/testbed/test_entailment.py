"""Entailment pairs: labels checked by hand and against the oracle."""

import collections

import numpy as np
import pytest

from visa_jax.data.testbed import make_testbed
from visa_jax.data.testbed.corpus import TEXT_LIMIT
from visa_jax.data.testbed.entailment import KINDS, label_sentences, pairs
from visa_jax.data.testbed.oracle import split_sentences
from visa_jax.data.testbed.wording import count_tokens

BED = make_testbed(0)


def test_labels_by_hand():
    premise = "it is red . found in oslo . we doubt wealth ."
    hypothesis = "painted red . in lima . mostly oak . we like fun . found oslo in ."
    sentences, labels = label_sentences(BED, premise, hypothesis)
    # reworded: 1; contradicted: 0; invented: 0; a value: no claim; damaged: 0
    assert list(zip(sentences, labels, strict=True)) == [
        ("painted red .", 1),
        ("in lima .", 0),
        ("mostly oak .", 0),
        ("we like fun .", -1),
        ("found oslo in .", 0),
    ]


def test_a_damaged_premise_supports_nothing():
    assert label_sentences(BED, "it red is . found in oslo .", "it is red . in oslo .")[1] == (0, 1)


@pytest.mark.parametrize("split", ["train", "test"])
def test_pairs_agree_with_the_oracle(split):
    drawn = pairs(BED, np.random.default_rng(0), 800, split, damage=0.0)
    counts = collections.Counter(pair.kind for pair in drawn)
    assert set(counts) == set(KINDS) and min(counts.values()) > 100
    for pair in drawn:
        premise, hypothesis = BED.oracle.read(pair.premise), BED.oracle.read(pair.hypothesis)
        assert pair.label == int(hypothesis.facts <= premise.facts)
        assert pair.label == int(pair.kind == "kept")
        assert max(count_tokens(pair.premise), count_tokens(pair.hypothesis)) <= TEXT_LIMIT
        assert " ".join(pair.sentences) == pair.hypothesis
        slots = {fact.slot for fact in premise.facts}
        new = hypothesis.facts - premise.facts
        if pair.kind == "contradicted":
            assert all(fact.slot in slots for fact in new)
        else:
            assert not any(fact.slot in slots for fact in new)


def test_labels_are_balanced_enough_and_damage_occurs():
    drawn = pairs(BED, np.random.default_rng(1), 1500)
    labels = collections.Counter(label for pair in drawn for label in pair.labels)
    claims = labels[0] + labels[1]
    assert 0.3 < labels[1] / claims < 0.7 and labels[-1] > 500
    damaged = sum(BED.oracle.statement(s) is None for pair in drawn for s in pair.sentences)
    # one sentence in ten is damaged, and a few of those still read as a sentence
    assert 0.08 < damaged / sum(len(pair.sentences) for pair in drawn) < 0.11


def test_no_training_sentence_is_a_held_out_wording():
    """Not even one that a damage made: half of the sentences are damaged here."""
    drawn = pairs(BED, np.random.default_rng(3), 1500, "train", damage=0.5)
    texts = [text for pair in drawn for text in (pair.premise, pair.hypothesis)]
    sentences = {sentence for text in texts for sentence in split_sentences(text)}
    read = {sentence: BED.oracle.statement(sentence) for sentence in sentences}
    strays = [s for s, meaning in read.items() if meaning and s in BED.wording.like(meaning, "test")]
    assert len(sentences) > 3000 and not strays


def test_same_fact_in_other_words_is_entailed_often():
    drawn = [p for p in pairs(BED, np.random.default_rng(2), 400) if p.kind == "kept"]
    reworded = [s for p in drawn for s, x in zip(p.sentences, p.labels, strict=True) if x == 1 and s not in p.premise]
    assert len(reworded) > 100
