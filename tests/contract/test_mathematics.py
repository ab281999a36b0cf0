"""One table of everything in the mathematics, one list that each entry must pass.

On a batch where nothing counts: finite value, finite gradient. On any batch: the same numbers twice, float32 in
gives float32 out (float64 under x64), no promotion between dtypes, and a second jitted call compiles nothing.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax import estimators, losses, solvers
from visa_jax.ops import masked, numerics
from visa_jax.types import WeightedSum

NEEDS = {"cispo": {"epsilon_high": 5.0}, "dr_grpo": {"max_completion_length": 8}}


def policy(x_BT, mask_BT, loss_type, level, **arguments):
    arguments = {**NEEDS.get(loss_type, {}), **arguments}
    old_BT, ref_BT = 0.9 * x_BT, 1.1 * x_BT
    return losses.policy_loss(
        x_BT,
        old_BT,
        x_BT[:, 0],
        mask_BT,
        loss_type=loss_type,
        importance_sampling_level=level,
        beta=0.1,
        logp_ref_BT=ref_BT,
        **arguments,
    )


def supervised(x_BT, mask_BT, loss):
    return loss(x_BT, jnp.round(x_BT), mask_BT[:, 0]).mean()


def kept(x_BT, mask_BT):
    return jnp.where(mask_BT, x_BT, 0)


def cut(reward_BT, mask_BT):
    return jnp.where(mask_BT, reward_BT, jnp.nan)


TABLE = {
    **{
        f"policy/{loss_type}/{level}{'/corrected' if corrected else ''}": partial(
            policy, loss_type=loss_type, level=level, bias_corrected_kl=corrected, delta=2.0
        )
        for loss_type in losses.LOSS_TYPES
        for level, corrected in (("token", False), ("sequence", False), ("token", True))
    },
    "critic": lambda x, m: losses.critic_loss(x, 0.9 * x, x**2, m, clip=0.2),
    "next_token": lambda x, m: losses.next_token(x, m).mean(),
    "value_regression": partial(supervised, loss=losses.value_regression),
    "shift_regression": partial(supervised, loss=losses.shift_regression),
    "entailment": lambda x, m: losses.entailment(x[:, 0], m[:, 1], m[:, 0]).mean(),
    "dpo": lambda x, m: losses.dpo(x[:, 0], x[:, 1], x[:, 2], x[:, 3]).mean(),
    "simpo": lambda x, m: losses.simpo(x[:, 0], x[:, 1], m.sum(1), m.sum(1)).mean(),
    **{f"reduce/{name}": lambda x, m, n=name: losses.reduce_tokens(n, x, m, 8) for name in losses.LOSS_TYPES},
    **{
        f"group/{aggregation}/{scale}": lambda x, m, a=aggregation, s=scale: estimators.group_advantages(
            cut(x, m), 2, aggregation=a, scale_rewards=s
        )
        for aggregation in ("sum_then_normalize", "normalize_then_sum")
        for scale in ("group", "batch", "none")
    },
    "rloo": lambda x, m: estimators.rloo_advantages(cut(x, m), 2),
    "gae": lambda x, m: estimators.gae(x, 0.5 * x, m, gamma=0.9, lam=0.95),
    "whiten": estimators.whiten,
    **{f"kl/{kind}": lambda x, m, k=kind: estimators.kl_estimate(x, 0.5 * x, k) for kind in estimators.KL_KINDS},
    "scale_rewards": lambda x, m: estimators.scale_rewards(
        estimators.QuantileNormalizer(low_K=x[0], high_K=x[1]), kept(x, m)
    ),
    "adapt_kl_coefficient": lambda x, m: estimators.adapt_kl_coefficient(x[0, 0] ** 2, x[0, 1], 16),
    **{
        f"solver/{name}": lambda x, m, n=name: solvers.combine_direction(n, kept(x, m), preference_K=jnp.abs(x[:, 0]))
        for name in solvers.AGGREGATORS
    },
    "solver/active": lambda x, m: solvers.min_norm(x @ x.T, active_K=m[:, 0]),
    "project_simplex": lambda x, m: solvers.project_simplex(kept(x, m)[0]),
    "linear": lambda x, m: solvers.linear(x, x),
    "tchebycheff": lambda x, m: solvers.tchebycheff(x, x, 0 * x),
    "smooth_tchebycheff": lambda x, m: solvers.smooth_tchebycheff(x, x, 0 * x, mu=0.1),
    "pbi": lambda x, m: solvers.pbi(x, jnp.abs(x), 0 * x),
    "masked_sum": masked.masked_sum,
    "masked_mean": masked.masked_mean,
    "masked_var": partial(masked.masked_var, ddof=1),
    "masked_std": partial(masked.masked_std, ddof=1),
    "token_logps": lambda x, m: numerics.token_logps(x, m[:, 0].astype(jnp.int32)),
    "entropy": lambda x, m: numerics.entropy(x),
    "cosine": lambda x, m: numerics.cosine(kept(x, m), x),
    "safe_norm": lambda x, m: numerics.safe_norm(kept(x, m)),
}
SHAPE = (4, 6)
NONE = np.zeros(SHAPE, bool)
SOME = np.random.default_rng(1).random(SHAPE) < 0.6


def batch(dtype=np.float32):
    return -np.random.default_rng(0).exponential(1, SHAPE).astype(dtype)


def leaves(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


def scalar(fn, x, mask):
    """Some number that depends on every floating result."""
    result = jax.tree.map(lambda r: r.mean(), fn(x, mask), is_leaf=lambda r: isinstance(r, WeightedSum))
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(result))


@pytest.fixture(autouse=True)
def strict_dtypes():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.mark.parametrize("name", TABLE)
def test_finite_when_nothing_counts(name):
    value, gradient = jax.jit(jax.value_and_grad(partial(scalar, TABLE[name])))(batch(), NONE)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", TABLE)
def test_deterministic_float32_and_compiled_once(name, compiles):
    step = jax.jit(TABLE[name])
    first = leaves(step(batch(), SOME))
    assert all(leaf.dtype == np.float32 and np.isfinite(leaf).all() for leaf in first)
    other = 0.5 * batch()
    compiles.reset()
    step(other, NONE)
    again = leaves(step(batch(), SOME))
    assert compiles.count == 0, compiles.names
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", TABLE)
def test_float64_stays_float64(name, x64):
    shapes = jax.eval_shape(TABLE[name], batch(np.float64), SOME)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float64)}


@pytest.mark.parametrize("name", TABLE)
def test_maps_over_a_leading_axis(name):
    many = np.stack([batch(), 0.5 * batch()])
    mapped = leaves(jax.jit(jax.vmap(TABLE[name]))(many, np.stack([SOME, SOME])))
    alone = leaves(jax.jit(TABLE[name])(many[1], SOME))
    for of_many, one in zip(mapped, alone, strict=True):
        np.testing.assert_allclose(of_many[1], one, rtol=2e-3, atol=2e-5)
