"""The oracle: exact reading, edge cases of consistency, judging with visible arithmetic."""

import time

import numpy as np
import pytest

from visa_jax.data.testbed import SLOTS, Fact, make_testbed
from visa_jax.data.testbed.corpus import visa_pairs
from visa_jax.data.testbed.oracle import split_sentences, value_cosine
from visa_jax.types import VALUES

BED = make_testbed(0)
ORACLE = BED.oracle


def vector(**levels) -> np.ndarray:
    values = np.zeros(10, np.float32)
    for name, level in levels.items():
        values[VALUES.index(name)] = level
    return values


def test_reads_facts_and_values():
    meaning = ORACLE.read("it is red . safety matters most . found in oslo . we doubt wealth .")
    assert meaning.facts == {Fact("colour", "red"), Fact("place", "oslo")}
    np.testing.assert_array_equal(meaning.values, vector(Security=1.0, Power=-0.5))
    assert [s.form for s in meaning.statements] == ["fact", "plain", "fact", "plain"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        ".",
        ". .",
        "it is red",
        "it is red . found in oslo",
        "it is red . . found in oslo .",
        ". it is red .",
        "red is it .",
        "it is red . hello .",
        "it is red . <sep>",
        "it is red . <unk> .",
    ],
)
def test_refuses_what_it_cannot_read(text):
    assert ORACLE.read(text) is None


def test_spelling_of_a_person_is_read():
    assert ORACLE.read("It is red.").facts == {Fact("colour", "red")}


def test_repetition_counts_once_and_levels_add_up():
    once, twice = ORACLE.read("safety is nice ."), ORACLE.read("safety is nice . safety is nice .")
    np.testing.assert_array_equal(once.values, twice.values)
    assert len(twice.statements) == 1
    added = ORACLE.read("safety is nice . we like order .")  # 1/2 + 1/2
    np.testing.assert_array_equal(added.values, vector(Security=1.0))
    clipped = ORACLE.read("safety matters most . order comes first . we like order .")  # 2.5 -> 1
    np.testing.assert_array_equal(clipped.values, vector(Security=1.0))
    mixed = ORACLE.read("safety matters most . we doubt order .")  # 1 - 1/2
    np.testing.assert_array_equal(mixed.values, vector(Security=0.5))


@pytest.mark.parametrize(
    "text, level",
    [
        ("people discuss safety .", 0.0),
        ("safety is not harmful .", 0.5),
        ("safety is not nice .", -0.5),
        ("oh sure safety matters most .", -1.0),
        ("never give up safety .", 1.0),
        ("never seek safety .", -1.0),
    ],
)
def test_neutral_negated_ironic(text, level):
    np.testing.assert_array_equal(ORACLE.read(text).values, vector(Security=level))


def test_read_partly_keeps_what_is_whole():
    meaning = ORACLE.read_partly("it red is . found in oslo . safety matters")
    assert meaning.facts == {Fact("place", "oslo")}
    assert not meaning.values.any()


def test_split_sentences_marks_the_open_end():
    assert split_sentences("it is red . safety matters") == ["it is red .", "safety matters"]
    assert split_sentences("It is red.") == ["it is red ."]


@pytest.mark.parametrize(
    "source, text, expected",
    [
        ("it is red . in oslo .", "painted red . found in oslo .", (1.0, 1.0)),
        ("it is red . in oslo .", "painted red .", (1.0, 0.5)),
        ("it is red .", "it is red . in oslo . mostly oak . in oslo .", (1 / 3, 1.0)),
        ("it is red .", "it is blue .", (0.0, 0.0)),
        ("it is red .", "safety is nice .", (0.0, 0.0)),  # no facts while the source has some
        ("safety is nice .", "we like order .", (1.0, 1.0)),  # neither has facts
        ("safety is nice .", "it is red .", (0.0, 1.0)),  # invented; nothing to omit
        ("it is red .", "it is", (0.0, 0.0)),
        ("it is", "it is red .", (0.0, 0.0)),
    ],
)
def test_consistency(source, text, expected):
    assert ORACLE.consistency(source, text) == pytest.approx(expected)


def test_judge_rewrite():
    source, target = "it is red . in oslo . we doubt safety .", vector(Security=1.0)
    good = ORACLE.judge_rewrite(source, target, "painted red . safety matters most . in oslo .")
    assert good == {
        "oracle_forward": 1.0,
        "oracle_backward": 1.0,
        "oracle_consistency": 1.0,
        "oracle_value_l2": 0.0,
        "oracle_value_cos": 1.0,
        "oracle_jsr": 1.0,
        "readable": 1.0,
    }
    copy = ORACLE.judge_rewrite(source, target, source)  # v = -1/2: L2 1.5, cosine -1
    assert (copy["oracle_value_l2"], copy["oracle_value_cos"], copy["oracle_jsr"]) == pytest.approx((1.5, -1.0, 0.0))
    omitting = ORACLE.judge_rewrite(source, target, "painted red . safety matters most .")
    assert (omitting["oracle_backward"], omitting["oracle_jsr"]) == (0.5, 0.0)
    broken = ORACLE.judge_rewrite(source, target, "red")
    assert broken["readable"] == broken["oracle_consistency"] == broken["oracle_value_cos"] == 0.0
    assert broken["oracle_value_l2"] == 1.0  # v = 0


def test_value_cosine_of_zero_vectors():
    assert value_cosine(np.zeros(10), np.zeros(10)) == 1.0
    assert value_cosine(np.zeros(10), vector(Power=1.0)) == 0.0


def test_helpful_counts_right_minus_wrong():
    truth = BED.world.truth["mill"]
    right = [BED.wording.fact_sentences(Fact(slot, truth[slot]), "all") for slot in SLOTS]
    wrong = next(f for f in ("red", "blue") if f != truth["colour"])
    text = f"{right[0][0].sentence} {right[1][0].sentence} {right[1][3].sentence} it is {wrong} ."
    assert ORACLE.helpful("mill", text, 6) == pytest.approx((2 - 1) / 6)  # a fact in two wordings counts once
    assert ORACLE.helpful("mill", f"it is {wrong} .", 6) == 0.0
    everything = " ".join(options[0].sentence for options in right)
    assert ORACLE.helpful("mill", everything, 6) == 1.0
    assert ORACLE.helpful("mill", everything + " red", 6) == 0.0


def test_warm_adds_distinct_sentences_of_two_values():
    assert ORACLE.warm("kindness matters most . we adore fun .", 6) == pytest.approx(2 / 6)
    assert ORACLE.warm("we adore fun . fun is nice . we adore fun .", 6) == pytest.approx(1.5 / 6)
    assert ORACLE.warm("we adore fun . we doubt kindness . safety matters most .", 6) == pytest.approx(0.5 / 6)
    assert ORACLE.warm("we despise fun .", 6) == 0.0
    assert ORACLE.warm("we adore fun", 6) == 0.0


def test_brief():
    assert ORACLE.brief("it is red .", 16) == pytest.approx(1 - 4 / 16)
    assert ORACLE.brief("it is", 16) == ORACLE.brief("", 16) == 0.0


def test_is_fast_enough():
    texts = [pair.source for pair in visa_pairs(BED, np.random.default_rng(0), 2000)]
    start = time.process_time()
    for text in texts:
        ORACLE.read(text)
    assert (time.process_time() - start) / len(texts) < 1e-3  # some 10 times slower than it is, for busy machines
