import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.losses import entailment, next_token, shift_regression, value_regression


def test_next_token_is_the_mean_negative_logp():
    logp = jnp.log(jnp.array([[0.5, 0.25], [0.125, 0.9]]))
    loss = next_token(logp, jnp.array([[True, True], [True, False]]))
    np.testing.assert_allclose(loss.total, np.log(2) + np.log(4) + np.log(8), rtol=1e-6)
    assert loss.weight == 3


def test_value_regression_by_hand():
    predicted, label = jnp.array([[0.6, 0.8], [0.5, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 0.0]])
    first = (0.16 + 0.64) / 2 + 0.5 * (1 - 0.6)
    second = 0.25 / 2  # the zero label has no direction
    np.testing.assert_allclose(value_regression(predicted, label).mean(), (first + second) / 2, rtol=1e-6)
    only = value_regression(predicted, label, jnp.array([False, True]))
    np.testing.assert_allclose(only.mean(), second, rtol=1e-6)


def test_value_regression_is_zero_at_the_label_and_differentiable_at_zero():
    label = jnp.array([[1.0, -0.5], [0.0, 0.0]])
    np.testing.assert_allclose(value_regression(label, label).mean(), 0, atol=1e-7)
    gradient = jax.grad(lambda x: value_regression(x, label).mean())(jnp.zeros((2, 2)))
    assert np.isfinite(gradient).all() and gradient[0, 0] < 0 < gradient[0, 1]


def test_shift_regression_by_hand():
    predicted, label = jnp.array([[0.25, -0.25, 0.0, 0.5]]), jnp.array([[0.5, 2.0, 0.0, 0.0]])
    # errors .25, 2.25, 0, .5; Huber with delta 1: .25²/2, 2.25 - .5, 0, .5²/2; lack of sign: .25 and .75
    huber = (0.03125 + 1.75 + 0 + 0.125) / 4
    np.testing.assert_allclose(shift_regression(predicted, label).mean(), huber + 0.5 * (0.25 + 0.75) / 2, rtol=1e-6)


def test_shift_regression_does_not_bias_a_right_answer():
    label = jnp.array([[0.5, -2.0, 0.0]])
    loss, gradient = jax.value_and_grad(lambda x: shift_regression(x, label).mean())(label * 1.0)
    assert loss == 0
    np.testing.assert_array_equal(gradient[0, 1:], 0)


def test_entailment_is_cross_entropy():
    logit, label = jnp.array([0.0, 2.0, -100.0]), jnp.array([1, 0, 0])
    expected = np.log(2) - np.log(1 - 1 / (1 + np.exp(-2.0))) + 0
    np.testing.assert_allclose(entailment(logit, label).total, expected, rtol=1e-6)
    np.testing.assert_allclose(
        entailment(logit, label, jnp.array([True, False, True])).mean(), np.log(2) / 2, rtol=1e-6
    )
    gradient = jax.grad(lambda x: entailment(x, label).total)(logit)
    np.testing.assert_allclose(gradient, jax.nn.sigmoid(logit) - label, atol=1e-6)
