"""Pretraining documents: each kind says what it claims, by the oracle; no kind joins two skills."""

import re

import numpy as np
import pytest

from visa_jax.data.symbols import SEP
from visa_jax.data.testbed import TOPICS, make_testbed
from visa_jax.data.testbed.corpus import TEXT_LIMIT
from visa_jax.data.testbed.documents import DOCUMENT_LIMIT, KINDS, SHARES, pretraining_documents
from visa_jax.data.testbed.wording import count_tokens
from visa_jax.types import VALUES

BED = make_testbed(0)
NAMES = [value.lower() for value in VALUES]


def documents(kind, n=60, seed=0):
    return pretraining_documents(BED, np.random.default_rng(seed), n, shares={kind: 1.0})


def meaning_of(level):
    """(index of the value, level) of a level token."""
    name, size = re.fullmatch(r"<([a-z-]+):([+-][0-9.]+)>", level).groups()
    return NAMES.index(name), float(size)


def said(sentences):
    return BED.oracle.read(sentences.strip()).values


def sentences_of(text):
    return [f"{part.strip()} ." for part in text.split(" .") if part.strip()]


@pytest.mark.parametrize("kind", KINDS)
def test_documents_fill_their_row(kind):
    lengths = [count_tokens(document) for document in documents(kind)]
    assert max(lengths) <= DOCUMENT_LIMIT and min(lengths) > DOCUMENT_LIMIT - TEXT_LIMIT - 2


def test_restatements_keep_facts_and_their_order():
    for document in documents("restated"):
        asked, *texts = document.split(f" {SEP} ")
        assert any(asked in BED.wording.questions(topic, "train") for topic in TOPICS)
        orders = [[s.fact for s in map(BED.oracle.statement, sentences_of(text)) if s.fact] for text in texts]
        assert orders[0] and all(order == orders[0] for order in orders) and len(texts) >= 2


def test_restated_facts_are_true_half_of_the_time_and_described_ones_always():
    def true_share(kind):
        shares = []
        for document in documents(kind, 300):
            asked, *texts = document.split(f" {SEP} ")
            topic = next(topic for topic in TOPICS if topic in asked.split())
            shares += [BED.world.is_true(topic, fact) for text in texts for fact in BED.oracle.read(text).facts]
        return np.mean(shares)

    assert true_share("described") == 1.0
    assert abs(true_share("restated") - (0.5 + 0.5 / 12.5)) < 0.05  # a random filler of about 12 may be the true one


def test_glossary_says_what_a_level_means():
    for document in documents("glossary"):
        pairs = re.findall(r"(<[^>]+>) ([^<]+)", document)
        assert len(pairs) >= 8 and SEP not in document
        for token, sentence in pairs:
            value, level = meaning_of(token)
            expected = np.zeros(len(VALUES))
            expected[value] = level
            np.testing.assert_array_equal(said(sentence), expected)


def test_expressed_names_levels_before_their_sentences():
    for document in documents("expressed"):
        parts = [part.strip() for part in document.split(SEP) if part.strip()]
        for names, sentences in zip(parts[::2], parts[1::2], strict=True):
            levels = [meaning_of(token) for token in names.split()]
            expected = np.zeros(len(VALUES))
            for value, level in levels:
                expected[value] = level
            np.testing.assert_array_equal(said(sentences), expected)
            order = [BED.oracle.statement(sentence).value for sentence in sentences_of(sentences)]
            assert levels == sorted(levels) and order == [value for value, _ in levels]


def test_no_kind_joins_two_skills():
    """No level beside facts, numbers and preference tags nowhere: else SFT and RL would have nothing to do."""
    for kind in KINDS:
        for document in documents(kind):
            has_level, has_number, has_tag = (re.search(p, document) for p in (r"<[a-z-]+:", r"<\d?\.", r"<rm\d"))
            states_facts = any(
                (statement := BED.oracle.statement(sentence)) is not None and statement.fact is not None
                for part in re.split(r"<[^>]+>", document)
                for sentence in sentences_of(part)
            )
            assert not has_tag and not has_number and not (states_facts and has_level), document


def test_kinds_come_in_their_shares():
    drawn = pretraining_documents(BED, np.random.default_rng(0), 2000)
    assert abs(sum(SHARES.values()) - 1) < 1e-9
    with_levels = np.mean([document.startswith("<") for document in drawn])
    assert abs(with_levels - SHARES["glossary"] - SHARES["expressed"]) < 0.03
    assert drawn == pretraining_documents(BED, np.random.default_rng(0), 2000)
