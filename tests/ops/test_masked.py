"""Masked reductions against numpy.ma, and what a masked entry may hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.ops.masked import masked_mean, masked_std, masked_sum, masked_var

REDUCTIONS = {
    "sum": (masked_sum, lambda x, axis: x.sum(axis)),
    "mean": (masked_mean, lambda x, axis: x.mean(axis)),
    "var0": (lambda x, m, axis: masked_var(x, m, axis), lambda x, axis: x.var(axis)),
    "var1": (lambda x, m, axis: masked_var(x, m, axis, ddof=1), lambda x, axis: x.var(axis, ddof=1)),
    "std1": (lambda x, m, axis: masked_std(x, m, axis, ddof=1), lambda x, axis: x.std(axis, ddof=1)),
}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (6, 5)).astype(np.float32)
    mask = rng.random((6, 5)) < 0.6
    mask[2] = False  # nothing counts in this row
    mask[3] = [True, False, False, False, False]  # one entry: no sample variance
    x[~mask] = np.array([np.nan, np.inf, -np.inf, 1e30])[np.arange((~mask).sum()) % 4]
    return x, mask


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_agrees_with_numpy_ma(data, name, axis):
    x, mask = data
    ours, theirs = REDUCTIONS[name]
    expected = np.ma.filled(theirs(np.ma.MaskedArray(x, ~mask, dtype=np.float64), axis), 0)
    if name in ("var1", "std1"):  # numpy.ma divides by 0 where one entry counts; here that is 0
        expected = np.where(mask.sum(axis) > 1, expected, 0)
    np.testing.assert_allclose(ours(x, jnp.array(mask), axis), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_gradient_does_not_see_masked_entries(data, name):
    x, mask = data
    gradient = jax.grad(lambda x: jnp.sum(REDUCTIONS[name][0](x, jnp.array(mask), 1)))(jnp.array(x))
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~mask] == 0).all()


def test_keepdims_keeps_the_axis():
    x, mask = jnp.array([[1.0, 3.0], [5.0, 9.0]]), jnp.array([[True, True], [True, False]])
    np.testing.assert_array_equal(masked_mean(x, mask, 1, keepdims=True), [[2.0], [5.0]])
    np.testing.assert_array_equal(masked_std(x, mask, 1, ddof=0, keepdims=True), [[1.0], [0.0]])


def test_variance_survives_a_large_mean():
    """One pass (mean of squares minus square of the mean) loses this in float32."""
    x = jnp.array([10_000.0, 10_001.0, 10_002.0])
    np.testing.assert_allclose(masked_var(x, jnp.ones(3, bool), ddof=1), 1.0, rtol=1e-5)
