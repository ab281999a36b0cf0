import jax
import numpy as np
import pytest

from visa_jax.ops.conditions import (
    RIC_13,
    add_shift,
    draw_shift,
    draw_target,
    simplex_lattice,
    two_decimal_preferences,
    unseen_preferences,
)


def hundredths(preferences):
    return np.rint(np.asarray(preferences) * 100).astype(int)


def test_lattice_of_two_objectives_is_the_grid():
    np.testing.assert_allclose(simplex_lattice(2, 0.2)[:, 0], [0, 0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)


def test_lattice_of_three_objectives_has_every_point_once():
    lattice = simplex_lattice(3, 0.2)
    assert len(np.unique(lattice, axis=0)) == len(lattice) == 21  # (5 + 2 choose 2)
    np.testing.assert_allclose(lattice.sum(1), 1, rtol=1e-6)
    assert lattice.min() == 0


def test_lattice_refuses_a_step_that_does_not_divide_one():
    with pytest.raises(ValueError, match="step"):
        simplex_lattice(2, 0.3)


def test_ric_points_are_thirteen_of_the_simplex():
    assert RIC_13.shape == (13, 3) and len(np.unique(RIC_13, axis=0)) == 13
    np.testing.assert_allclose(RIC_13.sum(1), 1, atol=0.011)  # (.33, .33, .33) is theirs


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("n", [20, 21, 40])
def test_training_preferences_show_every_digit_in_every_place(seed, n):
    p = hundredths(two_decimal_preferences(seed, n))
    assert (p.sum(1) == 100).all() and len(np.unique(p[:, 0])) == n
    assert set(range(0, 101, 10)) <= set(p[:, 0])
    for column in p.T:
        proper = column[column < 100]
        assert set(proper // 10) == set(range(10)) and set(proper % 10) == set(range(10))


def test_training_preferences_follow_the_seed():
    np.testing.assert_array_equal(two_decimal_preferences(3), two_decimal_preferences(3))
    assert (two_decimal_preferences(3) != two_decimal_preferences(4)).any()


@pytest.mark.parametrize("n", [19, 102])
def test_training_preferences_refuse_impossible_sizes(n):
    with pytest.raises(ValueError, match="n must"):
        two_decimal_preferences(0, n)


@pytest.mark.parametrize("exclude", [two_decimal_preferences(0), simplex_lattice(3, 0.2)], ids=["K=2", "K=3"])
def test_unseen_sets_are_disjoint_off_the_grid_and_unseen(exclude):
    unseen = hundredths(unseen_preferences(7, exclude=exclude))
    assert unseen.shape == (4, 10, exclude.shape[1])
    rows = {tuple(row) for row in unseen.reshape(40, -1)}
    assert len(rows) == 40
    assert not rows & {tuple(row) for row in hundredths(exclude)}
    assert all(sum(row) == 100 and any(entry % 10 for entry in row) for row in rows)


def test_unseen_sets_refuse_more_than_there_is():
    with pytest.raises(ValueError, match="sets"):
        unseen_preferences(0, sets=9, exclude=two_decimal_preferences(0))


def test_shifts_are_sparse_and_on_the_grid():
    shift = np.asarray(draw_shift(jax.random.key(0), 4000, min_active=2, max_active=4))
    active = shift != 0
    assert set(active.sum(1)) == {2, 3, 4}
    assert set(np.abs(shift[active])) == {0.5, 1.0, 1.5, 2.0}
    # every coordinate, count, size and sign is as likely as the others: 5 standard deviations
    np.testing.assert_allclose(active.mean(0), 0.3, atol=0.04)
    np.testing.assert_allclose((shift[active] > 0).mean(), 0.5, atol=0.025)
    np.testing.assert_allclose((np.abs(shift[active]) == 0.5).mean(), 0.25, atol=0.02)


def test_at_least_half_of_a_shift_is_zero():
    assert (np.asarray(draw_shift(jax.random.key(1), 500)) == 0).sum(1).min() == 5
    with pytest.raises(ValueError, match="max_active"):
        draw_shift(jax.random.key(0), 1, max_active=6)


def test_shift_is_added_and_clipped():
    np.testing.assert_allclose(add_shift(np.array([0.5, -0.5, 0.0]), np.array([1.0, 1.0, -2.0])), [1, 0.5, -1])


def test_targets_move_and_stay_sparse():
    anchor = np.zeros((600, 10), np.float32)
    anchor[:300, 2], anchor[:300, 7] = 0.95, -0.55  # a detector's reading of (1, -1/2)
    target = np.asarray(draw_target(jax.random.key(0), anchor, most_nonzero=3))
    assert np.abs(target).max() <= 1
    rounded, held = np.round(2 * target) / 2, np.round(2 * anchor) / 2
    assert ((rounded != 0).sum(1) <= 3).mean() > 0.98
    assert (np.abs(rounded - held).max(1) >= 0.5).mean() > 0.98
    np.testing.assert_array_equal(target, draw_target(jax.random.key(0), anchor, most_nonzero=3))


def test_targets_take_held_values_back_as_often_as_asked():
    anchor = np.zeros((800, 10), np.float32)
    anchor[:, 4] = 1.0
    share = [
        (np.asarray(draw_target(jax.random.key(1), anchor, overlap=overlap))[:, 4] < 1).mean() for overlap in (0.0, 1.0)
    ]
    assert share[0] < 0.3 and share[1] == 1
