import json

import numpy as np
import pytest

from visa_jax.evaluation import (
    control_error,
    kendall_tau,
    monotone_share,
    reward_range,
    sample_control_error,
    seed_difference,
)


def test_tau_by_hand():
    # pairs of (1 2 3 4): concordant all but (2, 3) swapped: (5 - 1) / 6
    assert kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert kendall_tau([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)


def test_tau_b_discounts_ties():
    # p has one tie, r none: 2 concordant of 3 pairs, √((3 - 1) 3) below
    assert kendall_tau([0, 0, 1], [1, 2, 3]) == pytest.approx(2 / np.sqrt(6))


def test_tau_is_averaged_over_objectives_and_constant_counts_zero():
    p = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    follows = np.array([[0.1, 0.7], [0.2, 0.6], [0.3, 0.5]])
    assert kendall_tau(p, follows) == pytest.approx(1)
    assert kendall_tau(p, follows[:, [0, 0]] * [1, 0]) == pytest.approx(0.5)
    assert kendall_tau(p, np.full((3, 2), 0.4)) == 0


def test_control_error_by_hand():
    p, reward = [[0.0, 1.0], [0.5, 0.5]], [[0.1, 0.8], [0.5, 0.5]]
    assert control_error(reward, p) == pytest.approx((0.01 + 0.04) / 2)
    assert sample_control_error(reward, p) == pytest.approx((0.01 + 0.04) / 4)


def test_samples_add_their_spread():
    """Two completions around p: the mean is perfect, the completions are not."""
    p = np.full((2, 2), 0.5)
    samples = np.array([[0.4, 0.5], [0.6, 0.5]])
    assert control_error(samples.mean(0, keepdims=True), p[:1]) == pytest.approx(0)
    assert sample_control_error(samples, p) == pytest.approx(0.01 / 2)


def test_monotone_share_by_hand():
    assert monotone_share([0, 0.5, 1], [0.1, 0.3, 0.2]) == pytest.approx(0.5)
    assert monotone_share([1, 0, 0.5], [0.9, 0.1, 0.5]) == 1  # order of rows does not matter
    assert monotone_share([0, 0.5, 1], [0.3, 0.3, 0.3]) == 0
    assert monotone_share([0, 0, 1], [5.0, 1.0, 4.0]) == 1  # 3 on average, then 4


def test_range():
    np.testing.assert_allclose(reward_range([[0.1, 5.0], [0.4, 2.0]]), [0.3, 3.0])


def test_seed_difference_is_the_paired_t_interval():
    mean, low, high = seed_difference([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert mean == pytest.approx(2)
    # t(.975, 2) = 4.302653, standard error 1/√3
    assert (low, high) == (pytest.approx(2 - 4.302653 / np.sqrt(3)), pytest.approx(2 + 4.302653 / np.sqrt(3)))
    assert seed_difference([1.0], [0.5]) == (0.5, -np.inf, np.inf)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="preferences and rewards"):
        kendall_tau([[0, 1]], [0, 1])
    with pytest.raises(ValueError, match="ours and theirs"):
        seed_difference([1.0, 2.0], [1.0])


def test_agrees_with_peers(shared):
    known = json.loads((shared / "oracles.json").read_text())["kendall"]
    assert kendall_tau(known["p"], known["r"]) == pytest.approx(known["tau"], abs=2e-6, rel=2e-6)
    assert kendall_tau(known["p"], np.ones(11)) == known["constant_reward"]
