import json

import numpy as np
import pytest

from visa_jax.evaluation import hypervolume, non_dominated, pareto_front, sparsity

STAIRS = [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [1.0, 1.0], [2.0, 2.0]]


def test_staircase_by_hand():
    # columns of width 1 and height 3, 2, 1 above the origin
    assert hypervolume(STAIRS, [0, 0]) == pytest.approx(3 + 2 + 1)
    # seen from (1, 1) only (2, 2) spans an area
    assert hypervolume(STAIRS, [1, 1]) == pytest.approx(1)
    assert hypervolume(STAIRS, [4, 4]) == 0


def test_higher_is_better_and_more_points_never_hurt():
    assert hypervolume([[2.0, 2.0]], [0, 0]) > hypervolume([[1.0, 2.0]], [0, 0])
    assert hypervolume([*STAIRS, [4.0, 0.5]], [0, 0]) == pytest.approx(6.5)
    assert hypervolume([*STAIRS, [9.0, -1.0]], [0, 0]) == pytest.approx(6)  # below the reference


def test_agrees_with_sampling_in_three_dimensions():
    rng = np.random.default_rng(0)
    points = rng.random((8, 3))
    samples = rng.random((40_000, 3))
    share = (samples[:, None, :] <= points[None]).all(2).any(1).mean()
    assert hypervolume(points, [0, 0, 0]) == pytest.approx(share, abs=0.01)


def test_front_keeps_order_and_drops_doubles():
    np.testing.assert_array_equal(non_dominated(STAIRS), [True, True, True, False, False])
    np.testing.assert_array_equal(pareto_front(STAIRS), STAIRS[:3])


def test_front_against_the_definition():
    points = np.random.default_rng(1).normal(size=(40, 3))
    better = (points[:, None] >= points[None]).all(2) & (points[:, None] > points[None]).any(2)
    np.testing.assert_array_equal(non_dominated(points), ~better.any(0))


def test_sparsity_by_hand():
    # steps 1 and 1 in both columns, two gaps
    assert sparsity(STAIRS) == pytest.approx((1 + 1 + 1 + 1) / 2)
    assert sparsity([[1.0, 2.0]]) == 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="reference"):
        hypervolume(STAIRS, [0, 0, 0])
    with pytest.raises(ValueError, match="points"):
        hypervolume([1.0, 2.0], [0])
    with pytest.raises(ValueError, match="points"):
        pareto_front([[np.nan, 1.0]])


def test_agrees_with_peers(shared):
    for case in json.loads((shared / "oracles.json").read_text())["hypervolume_maximise"]:
        assert hypervolume(case["points"], case["reference"]) == pytest.approx(case["hv"], abs=2e-6, rel=2e-6)
