import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.ops.numerics import as_float, cosine, entropy, safe_norm, sqrt_or_zero, token_logps


def test_token_logps_is_log_softmax_at_the_token():
    logits = jnp.array([[[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]]])
    expected = [[1 - np.log(np.exp(0) + np.exp(1) + np.exp(2)), -np.log(3)]]
    np.testing.assert_allclose(token_logps(logits, jnp.array([[1, 2]])), expected, rtol=1e-6)


def test_token_logps_at_extremes_and_in_bfloat16():
    logits = jnp.array([1e4, 0.0, -1e4])
    np.testing.assert_array_equal(token_logps(logits, jnp.array(0)), 0.0)
    np.testing.assert_array_equal(token_logps(logits, jnp.array(2)), -2e4)
    # exact in bfloat16, but their log-sum-exp is not: it must be taken in float32
    rough = token_logps(jnp.array([1.0, 2.0], jnp.bfloat16), jnp.array(0))
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, -np.log1p(np.e), rtol=1e-6)


def test_gradient_of_token_logps_is_onehot_minus_softmax():
    logits = jnp.array([0.3, -1.0, 2.0])
    gradient = jax.grad(lambda x: token_logps(x, jnp.array(2)))(logits)
    np.testing.assert_allclose(gradient, np.eye(3)[2] - jax.nn.softmax(logits), atol=1e-6)


def test_entropy_of_uniform_certain_and_cut_distributions():
    logits = jnp.array([[1.0, 1.0, 1.0, 1.0], [100.0, 0.0, 0.0, 0.0], [1.0, 1.0, -jnp.inf, -jnp.inf]])
    np.testing.assert_allclose(entropy(logits), [np.log(4), 0, np.log(2)], atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: entropy(x).sum())(logits)).all()


def test_norm_and_cosine_at_zero_have_zero_gradients():
    zero, x = jnp.zeros(3), jnp.array([3.0, 0.0, 4.0])
    assert safe_norm(x) == 5 and safe_norm(zero) == 0
    np.testing.assert_array_equal(jax.grad(safe_norm)(zero), zero)
    assert cosine(zero, x) == 0 and cosine(x, zero) == 0
    np.testing.assert_array_equal(jax.grad(cosine)(zero, x), zero)


def test_cosine_of_known_angles_and_scales():
    a = jnp.array([[1.0, 0.0], [1.0, 0.0], [1e-4, 1e-4]])
    b = jnp.array([[1.0, 1.0], [-7.0, 0.0], [3.0, 3.0]])
    np.testing.assert_allclose(cosine(a, b), [np.sqrt(0.5), -1, 1], rtol=1e-6)


def test_sqrt_or_zero():
    np.testing.assert_array_equal(sqrt_or_zero(jnp.array([4.0, 0.0, -1.0])), [2, 0, 0])
    np.testing.assert_array_equal(jax.vmap(jax.grad(sqrt_or_zero))(jnp.array([4.0, 0.0, -1.0])), [0.25, 0, 0])


@pytest.mark.parametrize(
    "given, dtype", [(jnp.int32, jnp.float32), (jnp.bfloat16, jnp.float32), (bool, jnp.float32), (jnp.float32,) * 2]
)
def test_as_float(given, dtype):
    assert as_float(jnp.ones(2, given)).dtype == dtype


def test_as_float_keeps_float64(x64):
    assert as_float(np.ones(2)).dtype == jnp.float64
    assert as_float([1, 2]).dtype == jnp.float64
    assert as_float(np.ones(2, np.float32)).dtype == jnp.float32
