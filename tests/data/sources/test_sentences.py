"""Normal form, sentences and self-supervised entailment pairs."""

import collections

import numpy as np
import pytest

from visa_jax.data.sources.sentences import (
    KINDS,
    alter_words,
    draw_pair,
    drop_words,
    end_sentence,
    join_answers,
    label_stops,
    normalize_text,
    split_sentences,
)

TEXT = "Routine helps many people. Change is exciting too! Choose what fits you."
OTHER = "Banks lend money against interest. Rates vary."


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("  two\n\tlines ", "two lines."),
        ("It\u2019s \u201cfine\u201d!", "It's \"fine."),
        ("a <sep> b", "a < sep> b."),
        ("really?!", "really."),
        ("3.5 of them", "3.5 of them."),
    ],
)
def test_normal_form_ends_with_a_full_stop_and_has_no_special_token(given, normal):
    made = end_sentence(normalize_text(given))
    assert made == normal
    assert end_sentence(normalize_text(made)) == made


def test_sentences_join_to_the_text():
    sentences = split_sentences(TEXT)
    assert sentences == ["Routine helps many people.", "Change is exciting too!", "Choose what fits you."]
    assert " ".join(sentences) == TEXT
    assert split_sentences("It costs 3.5 coins.") == ["It costs 3.5 coins."]


def test_dropping_keeps_the_end_and_altering_changes_something():
    rng = np.random.default_rng(0)
    for _ in range(20):
        shorter = drop_words(rng, "one two three four.", 0.5)
        assert shorter.endswith("four.") and set(shorter.split()) <= {"one", "two", "three", "four."}
        altered = alter_words(rng, "one two three four.", ["x", "y."], 0.3)
        assert altered != "one two three four." and altered.endswith("four.") and len(altered.split()) == 4
    assert alter_words(rng, "Yes.", ["No."], 0.3) == "No."


def test_a_sentence_without_a_stop_is_judged_with_the_next():
    assert label_stops([1, 1], [1, 0]) == (1, 0)
    assert label_stops([1, 0, 1], [1, 0, 1]) == (1, 0)  # the second ends with "!"
    assert label_stops([0, 1], [1, 1]) == (1,)
    assert label_stops([3], [0]) == (0, 0, 0)  # e. g. "U.S."
    assert label_stops([1, 0], [1, 0]) == (1,)


def test_pairs_are_labelled_by_what_was_done_to_them():
    rng = np.random.default_rng(1)
    sentences = split_sentences(TEXT)
    drawn = [draw_pair(rng, TEXT, ["Routine is dull."], OTHER) for _ in range(400)]
    counts = collections.Counter(pair.kind for pair in drawn)
    assert set(counts) == set(KINDS) and min(counts.values()) > 60
    for pair in drawn:
        assert pair.hypothesis == " ".join(pair.sentences) and pair.label == min(pair.labels)
        premise = pair.premise.split()
        for sentence, label in zip(pair.sentences, pair.labels, strict=True):
            if label == 1:  # entailed: every word is in the premise, in this order or fewer
                assert set(sentence.split()) <= set(premise)
        if pair.kind == "kept":
            assert pair.label == 1 and pair.premise == TEXT
        if pair.kind == "omitted":
            assert 0 in pair.labels and len(split_sentences(pair.premise)) < len(sentences)
        if pair.kind == "altered":
            assert 0 in pair.labels


def test_joined_answers_hold_sentences_of_both_in_order_and_none_twice():
    own, other = split_sentences(TEXT), split_sentences(OTHER)
    seen = set()
    for seed in range(60):
        made = split_sentences(join_answers(np.random.default_rng(seed), TEXT, OTHER + " " + own[1]))
        places = [(own + other).index(sentence) for sentence in made]
        assert len(set(places)) == len(places)
        first = [place for place in places if place < len(own)]
        assert places[0] in first and any(place >= len(own) or place == 1 for place in places)
        seen.add(tuple(places))
    assert (0, 1, 2, 3, 4) in seen and len(seen) > 12
