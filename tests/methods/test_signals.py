"""Signals by hand: two objectives, rewards (0.5, 0.2) under the preference (0.3, 0.7)."""

import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.methods.signals import SIGNALS, control_mse, make_signals, signal_names

SCALED_BK = jnp.array([[0.5, 0.2], [0.3, 0.7]])
PREFERENCE_BK = jnp.array([[0.3, 0.7], [0.3, 0.7]])
CONTROL = -(0.2**2 + 0.5**2) / 2  # -(1/2) ((0.5 - 0.3)^2 + (0.2 - 0.7)^2); the second row hits its preference

EXPECTED = {
    "bi": [[0.35, CONTROL], [0.5, 0.0]],
    "target": [[-0.04, -0.25], [0.0, 0.0]],
    "n_plus_1": [[0.5, 0.2, CONTROL], [0.3, 0.7, 0.0]],
    "linear": [[0.3 * 0.5 + 0.7 * 0.2], [0.3 * 0.3 + 0.7 * 0.7]],
    "mse": [[CONTROL], [0.0]],
}


@pytest.mark.parametrize("kind", SIGNALS)
def test_signals_by_hand(kind):
    signal_BS = make_signals(kind, SCALED_BK, PREFERENCE_BK)
    np.testing.assert_allclose(signal_BS, EXPECTED[kind], atol=1e-6)
    assert len(signal_names(kind, 2)) == signal_BS.shape[1]


def test_control_is_the_mean_over_objectives():
    scaled_BK = jnp.array([[1.0, 0.0, 0.6]])
    preference_BK = jnp.array([[0.4, 0.4, 0.2]])
    np.testing.assert_allclose(control_mse(scaled_BK, preference_BK), [(0.36 + 0.16 + 0.16) / 3], atol=1e-6)


@pytest.mark.parametrize("kind", SIGNALS)
def test_permuting_the_objectives_permutes_the_signals_that_belong_to_one(kind):
    order = jnp.array([2, 0, 1])
    scaled_BK = jnp.array([[0.9, 0.1, 0.4], [0.2, 0.3, 1.2]])
    preference_BK = jnp.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    before_BS = make_signals(kind, scaled_BK, preference_BK)
    after_BS = make_signals(kind, scaled_BK[:, order], preference_BK[:, order])
    own = {"target": 3, "n_plus_1": 3}.get(kind, 0)  # the first signals have one objective each, the rest sum over all
    np.testing.assert_allclose(after_BS[:, :own], before_BS[:, :own][:, order] if own else before_BS[:, :0], atol=1e-6)
    np.testing.assert_allclose(after_BS[:, own:], before_BS[:, own:], atol=1e-6)


def test_the_control_signal_is_last_and_named_so():
    # methods/moc.py drops it by this name
    assert signal_names("bi", 3) == ("reward", "control")
    assert signal_names("n_plus_1", 3) == ("reward_1", "reward_2", "reward_3", "control")
    assert signal_names("target", 3) == ("target_1", "target_2", "target_3")
    assert signal_names("linear", 3) == ("linear",)
