import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.solvers import project_simplex
from visa_jax.solvers.simplex import supports
from visa_jax.solvers.systems import eigh_small, solve_small


@pytest.mark.parametrize("K", [1, 2, 5, 9])
def test_solution_solves_the_system(K, x64):
    rng = np.random.default_rng(K)
    matrix, rhs = rng.normal(size=(20, K, K)), rng.normal(size=(20, K))
    expected = np.linalg.solve(matrix, rhs[..., None])[..., 0]
    np.testing.assert_allclose(jax.jit(solve_small)(jnp.array(matrix), jnp.array(rhs)), expected, rtol=1e-8, atol=1e-10)


def test_pivots_may_be_zero_on_the_diagonal():
    matrix = jnp.array([[0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [4.0, 0.0, 0.0]])
    np.testing.assert_allclose(solve_small(matrix, jnp.array([2.0, 6.0, 12.0])), [3, 1, 2])


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_eigenvectors_rebuild_the_matrix(rank, x64):
    factor = np.random.default_rng(0).normal(size=(6, rank))
    matrix = jnp.array(factor @ factor.T)
    values, vectors = eigh_small(matrix)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(matrix), atol=1e-12)
    np.testing.assert_allclose(vectors @ jnp.diag(values) @ vectors.T, matrix, atol=1e-12)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(6), atol=1e-12)


def test_projection_on_the_simplex():
    np.testing.assert_allclose(project_simplex(jnp.array([0.2, 0.3, 0.5])), [0.2, 0.3, 0.5], atol=1e-6)
    np.testing.assert_allclose(project_simplex(jnp.array([2.0, 0.0, -1.0])), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(project_simplex(jnp.array([0.6, 0.8, -5.0])), [0.4, 0.6, 0], atol=1e-6)


def test_supports_are_all_subsets():
    assert len({tuple(s) for s in supports(4)}) == 15
    assert supports(3)[:3].sum() == 3 and supports(3)[-1].all()
