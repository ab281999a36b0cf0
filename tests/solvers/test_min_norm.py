"""The shortest vector of a hull: geometry by hand, brute force, invariances, the peers' numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.ops.conditions import simplex_lattice
from visa_jax.solvers import active_signals, min_norm

METHODS = ["exact", "frank_wolfe"]
solve = jax.jit(min_norm, static_argnames="method")


def gram(jacobian):
    jacobian = np.asarray(jacobian, np.float32)
    return jnp.array(jacobian @ jacobian.T)


def random_jacobian(K, D=12, seed=0):
    return np.random.default_rng(seed).normal(0.2, 1, (K, D)).astype(np.float32)


# signals -> weights, found with pencil and paper
BY_HAND = [
    ([[2, 0], [0, 1]], [0.2, 0.8]),  # foot of the perpendicular on the segment
    ([[1, 0], [3, 0]], [1, 0]),  # same direction: the shorter one
    ([[1, 1], [-1, 1]], [0.5, 0.5]),
    ([[1, 0], [0, 1], [-1, -1]], [1 / 3, 1 / 3, 1 / 3]),  # 0 is inside; Gram matrix singular
    ([[1, 0, 0], [0, 1, 0], [0, 0, 2]], [4 / 9, 4 / 9, 1 / 9]),  # orthogonal: c ~ 1/length²
    ([[3, 1], [3, -1], [1, 0]], [0, 0, 1]),  # a vertex that cuts the others off
    ([[5]], [1]),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("jacobian, weights", BY_HAND)
def test_by_hand(jacobian, weights, method):
    np.testing.assert_allclose(solve(gram(jacobian), method), weights, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_three_signals_against_every_point_of_a_fine_grid(seed):
    G = gram(random_jacobian(3, D=2 + seed, seed=seed))
    grid = simplex_lattice(3, 0.01)
    lengths = np.einsum("pk,kl,pl->p", grid, G, grid)
    for method in METHODS:
        c = np.asarray(solve(G, method))
        assert c @ G @ c <= lengths.min() + 1e-6
        assert np.abs(c - grid[lengths.argmin()]).max() < 0.02


@pytest.mark.parametrize("K", [2, 3, 5, 8])
@pytest.mark.parametrize("method", METHODS)
def test_optimality_conditions(K, method):
    """c >= 0, Σc = 1, and every signal's product with the shortest vector is at least its square."""
    many = jax.jit(jax.vmap(lambda G: min_norm(G, method)))
    grams = np.stack([gram(random_jacobian(K, D=K + seed, seed=seed)) for seed in range(6)])
    weights = np.asarray(many(jnp.array(grams)))
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    products = np.einsum("skl,sl->sk", grams, weights)
    square = np.einsum("sk,sk->s", weights, products)
    trace = np.trace(grams, axis1=1, axis2=2)
    assert ((products - square[:, None]) / trace[:, None]).min() > -1e-5


@pytest.mark.parametrize("K", [3, 6])
def test_both_methods_agree(K):
    G = gram(random_jacobian(K, D=30))
    np.testing.assert_allclose(solve(G, "frank_wolfe"), solve(G), atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_permuted_objectives_permute_the_weights(method):
    jacobian, order = random_jacobian(4), [2, 0, 3, 1]
    np.testing.assert_allclose(
        solve(gram(jacobian[order]), method), solve(gram(jacobian), method)[jnp.array(order)], atol=1e-5
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_scale_of_the_signals_changes_nothing(scale, method):
    G = gram(random_jacobian(3))
    np.testing.assert_allclose(solve(G * scale, method), solve(G, method), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("K", [1, 2, 3, 8])
def test_ties_and_zeros_give_a_point_of_the_simplex(K, method):
    for G in (jnp.ones((K, K)), jnp.zeros((K, K))):  # equal signals: any point; no signal: uniform
        c = solve(G, method)
        np.testing.assert_allclose(c.sum(), 1, rtol=1e-6)
        assert (c >= 0).all()
    np.testing.assert_allclose(c, 1 / K, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_zero_signal_takes_all_the_weight_unless_it_is_taken_out(method):
    for jacobian, without in (([[0, 0], [1, 2]], [0, 1]), ([[0, 0], [2, 0], [0, 1]], [0, 0.2, 0.8])):
        G = gram(jacobian)
        np.testing.assert_allclose(solve(G, method), np.eye(len(G))[0], atol=1e-5)
        np.testing.assert_allclose(solve(G, method, active_K=active_signals(G)), without, atol=1e-5)
    nothing = jnp.zeros((2, 2))
    np.testing.assert_array_equal(solve(nothing, method, active_K=active_signals(nothing)), 0.5)


def test_weights_are_data():
    gradient = jax.grad(lambda G: min_norm(G) @ jnp.array([1.0, 2.0, 3.0]))(gram(random_jacobian(3)))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("K", [2, 3])
def test_nan_is_not_hidden(K):
    assert jnp.isnan(min_norm(jnp.full((K, K), jnp.nan))).any()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="method"):
        min_norm(jnp.eye(2), "newton")
    with pytest.raises(ValueError, match="gram_KK"):
        min_norm(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="K must"):
        min_norm(jnp.eye(9))


def test_agrees_with_peers(shared, x64):
    for case in json.loads((shared / "oracles.json").read_text())["min_norm"]:
        jacobian = np.array(case["J"], float)
        weights = solve(jnp.array(jacobian @ jacobian.T))
        np.testing.assert_allclose(weights, case["weights"], atol=2e-6, rtol=2e-6)
        np.testing.assert_allclose(solve(jnp.array(jacobian @ jacobian.T), "frank_wolfe"), case["weights"], atol=1e-3)
