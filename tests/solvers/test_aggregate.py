"""One direction from K gradients: the property that defines each rule, by hand and on random gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.solvers import AGGREGATORS, combine_direction, combine_weights

direction = jax.jit(combine_direction, static_argnames=("name", "cagrad_c"))
CONFLICT = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])  # g1·g2 = -22, ‖g1‖² = 18, ‖g2‖² = 38
RULES = [name for name in AGGREGATORS if name != "linear"]


def jacobian(seed=0, K=3, D=7):
    return jnp.array(np.random.default_rng(seed).normal(size=(K, D)), jnp.float32)


def unit(x):
    return x / np.linalg.norm(x)


def test_pcgrad_by_hand():
    g1, g2 = np.asarray(CONFLICT)
    expected = (g1 + 22 / 38 * g2) + (g2 + 22 / 18 * g1)
    np.testing.assert_allclose(direction("pcgrad", CONFLICT), expected, rtol=1e-5)


def test_pcgrad_projects_in_order_on_the_original_gradients():
    G = np.asarray(jacobian(3))
    expected = np.zeros(7)
    for i in range(3):
        d = G[i].copy()
        for j in range(3):
            if j != i and d @ G[j] < 0:
                d -= (d @ G[j]) / (G[j] @ G[j]) * G[j]
        expected += d
    np.testing.assert_allclose(direction("pcgrad", jnp.array(G)), expected, rtol=1e-4, atol=1e-5)


def test_upgrad_of_two_is_half_of_pcgrad():
    np.testing.assert_allclose(2 * direction("upgrad", CONFLICT), direction("pcgrad", CONFLICT), rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_upgrad_conflicts_with_no_gradient(seed):
    J = jacobian(seed, K=4, D=5)
    assert (J @ direction("upgrad", J)).min() > -1e-4


def test_without_conflict_projections_change_nothing():
    J = jnp.array([[1.0, 0.5, 0.0], [0.2, 1.0, 0.1]])
    np.testing.assert_allclose(direction("upgrad", J), J.mean(0), rtol=1e-5)
    np.testing.assert_allclose(direction("pcgrad", J), J.sum(0), rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_cagrad_is_the_best_of_its_ball(seed):
    """No direction within c ‖g0‖ of the mean improves the worst objective more."""
    J, c = np.asarray(jacobian(seed)), 0.4
    g0 = J.mean(0)
    d = np.asarray(direction("cagrad", jnp.array(J), cagrad_c=c))
    np.testing.assert_allclose(np.linalg.norm(d - g0), c * np.linalg.norm(g0), rtol=1e-3)
    rng = np.random.default_rng(seed)
    others = g0 + c * np.linalg.norm(g0) * np.array([unit(d - g0 + 0.3 * rng.normal(size=7)) for _ in range(3000)])
    assert (J @ d).min() >= (J @ others.T).min(0).max() - 1e-4


def test_cagrad_between_mean_and_min_norm():
    J = jacobian(1)
    np.testing.assert_allclose(direction("cagrad", J, cagrad_c=0.0), J.mean(0), rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_nash_mtl_gives_every_objective_the_same_relative_gain(seed):
    """Γα = 1/α says α_k g_k·d is equal over k; the step has norm 1."""
    J = jacobian(seed, K=4) * jnp.array([1e-3, 1.0, 1e2, 1.0])[:, None]
    alpha = np.asarray(combine_weights("nash_mtl", J @ J.T))
    d = alpha @ np.asarray(J)
    np.testing.assert_allclose(alpha * (np.asarray(J) @ d), 1 / 4, rtol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(d), 1, rtol=1e-4)


def test_nash_mtl_with_a_zero_gradient_ignores_it():
    J = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(direction("nash_mtl", J), [0.6, 0.8], rtol=1e-5)


def test_imtl_g_has_equal_projections_on_unit_gradients():
    J = np.asarray(jacobian(2))
    d = np.asarray(direction("imtl_g", jnp.array(J)))
    projections = J @ d / np.linalg.norm(J, axis=1)
    np.testing.assert_allclose(projections, projections[0], rtol=1e-3)
    np.testing.assert_allclose(combine_weights("imtl_g", jnp.array(J @ J.T)).sum(), 1, rtol=1e-4)


def test_aligned_mtl_equalises_principal_components():
    # orthogonal gradients of length 1, 2, 4 all become of the smallest length
    J = jnp.diag(jnp.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(direction("aligned_mtl", J), [1 / 3, 1 / 3, 1 / 3], rtol=1e-5)
    # a dependent third gradient: the zero component is left out, d stays in the plane and finite
    rank_two = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    singular, _, rotation = np.linalg.svd(np.asarray(rank_two))
    d = direction("aligned_mtl", rank_two)
    expected = (singular[:, :2] @ rotation[:2]).T @ np.full(3, 1 / 3) * 1.0
    np.testing.assert_allclose(d, expected, atol=1e-5)


def test_mgda_direction_is_no_longer_than_any_gradient_and_descends_on_all():
    J = jacobian(4, K=5, D=20)
    d = direction("mgda", J)
    assert jnp.linalg.norm(d) <= jnp.linalg.norm(J, axis=1).min()
    assert (J @ d).min() >= (d @ d) * (1 - 1e-4)


def test_linear_and_uniform():
    J, p = jacobian(), jnp.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(direction("linear", J, preference_K=p), p @ J, rtol=1e-5)
    for name in ("mean", "uniform"):
        np.testing.assert_allclose(direction(name, J), J.mean(0), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in RULES if name != "pcgrad"])
def test_permuted_objectives_give_the_same_direction(name):
    """All but pcgrad, which takes the gradients in order."""
    J = jacobian(6, K=4, D=9)
    np.testing.assert_allclose(direction(name, J[jnp.array([2, 0, 3, 1])]), direction(name, J), atol=2e-4)


@pytest.mark.parametrize("name", RULES)
def test_direction_is_the_weights_times_the_gradients(name):
    J = jacobian(7)
    weights = jax.jit(combine_weights, static_argnames="name")(name, J @ J.T)
    np.testing.assert_allclose(weights @ J, direction(name, J), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_degenerate_gradients_stay_finite(name):
    many = jnp.array([np.zeros((3, 2)), np.ones((3, 2)), [[1, 0], [-1, 0], [0, 0]]], jnp.float32)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(lambda J: combine_direction(name, J).sum())))(many)
    assert jnp.isfinite(values).all() and jnp.isfinite(gradients).all()


def test_more_than_eight_objectives():
    J = jacobian(K=9, D=30)
    assert jnp.linalg.norm(direction("mgda", J)) <= jnp.linalg.norm(J, axis=1).min()
    with pytest.raises(ValueError, match="K must"):
        combine_direction("upgrad", J)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="name"):
        combine_weights("average", jnp.eye(2))
    with pytest.raises(ValueError, match="preference_K"):
        combine_weights("linear", jnp.eye(2))


def test_agrees_with_peers(shared, x64):
    known = json.loads((shared / "oracles.json").read_text())["combine_direction"]
    J = jnp.array(known["J"], float)
    for key in ("upgrad", "pcgrad", "nash_mtl"):
        np.testing.assert_allclose(direction(key, J), known[key], atol=1e-3)
    np.testing.assert_allclose(direction("cagrad", J, cagrad_c=0.5), known["cagrad_c0.5"], atol=1e-3)
