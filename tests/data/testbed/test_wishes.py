"""Wishes: the declared shifts, splits, and shifts that leave a text something to say."""

import numpy as np
import pytest

from visa_jax.data.testbed import normalise
from visa_jax.data.testbed.wishes import NEUTRAL_WISHES, SHIFTS, Wishes, draw_shift, draw_shift_from
from visa_jax.types import VALUES

WISHES = Wishes(0)


@pytest.mark.parametrize(
    "clause, value, shift",
    [
        ("more daring", "Stimulation", 1.0),
        ("less bound to tradition", "Tradition", -1.0),
        ("much more wealth", "Power", 1.5),
        ("a bit less obedient", "Conformity", -0.5),
        ("as daring as possible", "Stimulation", 2.0),
        ("as little self - direction as possible", "Self-Direction", -2.0),
    ],
)
def test_declared_shifts(clause, value, shift):
    assert WISHES.meanings[clause] == (VALUES.index(value), shift)


def test_example_of_the_readme_is_in_the_training_language():
    clauses = normalise("more daring, less bound to tradition").split(" , ")
    for clause in clauses:
        value, shift = WISHES.meanings[clause]
        assert clause in WISHES.clauses(value, shift, "train")


def test_no_clause_is_in_both_splits_and_all_shifts_have_words():
    for value in range(10):
        for shift in SHIFTS:
            train, test = (set(WISHES.clauses(value, shift, split)) for split in ("train", "test"))
            assert len(train) >= 15 and test and not train & test


def test_a_wish_names_each_of_its_values_and_no_other():
    texts, shifts = WISHES.draw(np.random.default_rng(0), 500)
    assert shifts.dtype == np.float32 and np.abs(shifts).max() == 2.0
    for text, shift in zip(texts, shifts, strict=True):
        assert text == normalise(text)
        for value in range(10):
            said = [c for s in SHIFTS for c in WISHES.clauses(value, s, "all") if f" {c} " in f" {text} "]
            assert bool(said) == bool(shift[value]), (text, VALUES[value])
            if said:  # the longest clause found is the one meant: "a bit more fun" holds "more fun"
                assert WISHES.meanings[max(said, key=len)] == (value, shift[value])
    neutral = [text for text, shift in zip(texts, shifts, strict=True) if not shift.any()]
    assert 25 <= len(neutral) <= 80 and set(neutral) <= set(NEUTRAL_WISHES)


def test_shifts_are_sparse_and_on_the_grid():
    shifts = np.stack([draw_shift(np.random.default_rng(i)) for i in range(300)])
    counts = np.count_nonzero(shifts, axis=1)
    assert set(counts) == {1, 2, 3} and set(np.unique(shifts)) == {*SHIFTS, 0.0}


def test_shift_from_a_reading_leaves_a_target_that_a_text_can_state():
    rng = np.random.default_rng(0)
    current = np.zeros(10)
    current[[0, 5]] = 0.9, -0.45
    touched = 0
    for _ in range(200):
        shift = draw_shift_from(rng, current)
        target = np.clip(np.array([1, 0, 0, 0, 0, -0.5, 0, 0, 0, 0]) + shift, -1, 1)
        assert np.count_nonzero(target) <= 3
        assert np.abs(target - [1, 0, 0, 0, 0, -0.5, 0, 0, 0, 0]).max() >= 0.5
        touched += bool(shift[0] or shift[5])
    assert touched > 60


def test_same_seed_same_wishes():
    draw = [Wishes(1).draw(np.random.default_rng(2), 20)[0] for _ in range(2)]
    assert draw[0] == draw[1] != WISHES.draw(np.random.default_rng(3), 20)[0]
