"""Rows by their lengths: the narrowest bucket is computed, and the update is that of all columns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import ways
from visa_jax.parallel import MeshConfig
from visa_jax.training.lengths import equal_widths, in_bucket, length_order, take_prompts
from visa_jax.training.programs import run_optimizer, update_choices
from visa_jax.training.state import init_state
from visa_jax.training.update import make_update
from visa_jax.types import Rollout, Scored

pytestmark = pytest.mark.usefixtures("quick_compiles")
ROWS = ways.PROMPTS * ways.GROUP


def test_widths_are_equal_shares():
    assert equal_widths(6, 3) == (2, 4, 6)
    assert equal_widths(5, 2) == (3, 5)
    assert equal_widths(2, 4) == (1, 2)
    assert equal_widths(512, 4) == (128, 256, 384, 512)


@pytest.mark.parametrize(("longest", "width"), [(0, 2), (1, 2), (2, 2), (3, 4), (4, 4), (5, 6), (6, 6)])
def test_the_narrowest_bucket_that_holds_the_longest_row(longest, width):
    mask_BT = np.arange(6)[None, :] < np.array([min(longest, 1), longest])[:, None]
    assert int(jax.jit(lambda mask_BT: in_bucket(jnp.int32, mask_BT, 3))(mask_BT)) == width


def test_prompts_come_in_the_order_of_their_longest_completion():
    length_B = np.array([1, 6, 2, 3, 5, 1, 4, 4])
    order_N = length_order(np.arange(6)[None, :] < length_B[:, None], 4)
    np.testing.assert_array_equal(order_N, [1, 3, 2, 0])  # 3, 4, 5, 6 tokens
    rows, prompts, empty = take_prompts((length_B, np.arange(4), np.zeros((4, 0))), order_N)
    np.testing.assert_array_equal(rows, [2, 3, 4, 4, 5, 1, 1, 6])
    np.testing.assert_array_equal(prompts, [1, 3, 2, 0])
    assert empty.shape == (4, 0)


def scored(length_B) -> Scored:
    """Rows of given lengths; what stands behind them must not be read."""
    rng = np.random.default_rng(8)
    token_BT = rng.integers(3, ways.SIZES["vocab_size"], (ROWS, ways.TOKENS)).astype(np.int32)
    mask_BT = np.arange(ways.TOKENS)[None, :] < length_B[:, None]
    logp_BT = np.where(mask_BT, rng.normal(-3.0, 0.3, mask_BT.shape), 0.0).astype(np.float32)
    rollout = Rollout(prompts=ways.prompts_fn(None, 0), completion_BT=token_BT, mask_BT=mask_BT, logp_BT=logp_BT)
    return jax.tree.map(jnp.asarray, Scored(rollout=rollout, reward_BK=rng.uniform(size=(ROWS, 2)).astype(np.float32)))


def step(method: str, given: Scored, **choices):
    """(state and metrics after one update, widths in which the policy was computed, in their order)."""
    experiment, params, reference, method_state = ways.make_run(method)
    config, widths = ways.make_config(**choices), []

    def policy_fn(params, rollout):
        jax.debug.callback(lambda: widths.append(rollout.mask_BT.shape[1]), ordered=False)
        return experiment.policy_fn(params, rollout)

    optimizer = run_optimizer(config)
    update = make_update(experiment.method, policy_fn, optimizer, **update_choices(experiment, config))
    state = init_state(params, optimizer, method_state, jax.random.key(0))
    told = jax.block_until_ready(jax.jit(update)(state, reference, given))
    jax.effects_barrier()
    return dataclasses.replace(told[0], key=jnp.int32(0)), told[1], widths


@pytest.mark.parametrize(
    ("method", "choices", "widths"),
    [
        # prompts of at most 1, 2 | 2, 3 | 5, 6 | 6, 6 tokens, in pieces of two: the reference, then the policy
        ("visa", {"micro_batches": 4}, {2: 2, 4: 2, 6: 4}),
        ("visa", {"micro_batches": 1}, {6: 2}),
        # reference and old critics in two pieces (4, 6 columns); of each minibatch its own two pieces (2, 3 | 5, 6 and
        # 1, 2 | 6, 6 tokens), twice
        ("moc", {"micro_batches": 2, "minibatches": 2, "epochs": 2}, {2: 2, 4: 4, 6: 6}),
    ],
)
def test_an_update_in_buckets_is_that_of_all_columns(method, choices, widths):
    longest_N = np.array([3, 6, 2, 5, 6, 1, 6, 2])
    length_B = np.stack([np.ones(ways.PROMPTS, int), longest_N], axis=1).ravel()
    given = scored(length_B)
    expected, found = step(method, given, **choices), step(method, given, **choices, length_buckets=3)
    assert expected[2] == [6] * len(expected[2]) and len(found[2]) == len(expected[2])
    assert {width: found[2].count(width) for width in set(found[2])} == widths
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), expected[:2], found[:2])
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found[0].params, ways.make_run(method)[1])
    assert max(jax.tree.leaves(moved)) > 1e-3


ENDS = tuple(range(2, 18))  # a third of all tokens


@pytest.mark.parametrize(
    "mesh",
    [MeshConfig(data=2, fsdp=2), pytest.param(MeshConfig(way="pmap", data=4), marks=pytest.mark.slow)],
    ids=str,
)
def test_buckets_on_several_devices(mesh):
    """Under pmap each device has buckets of its own."""
    expected = ways.run("visa", end_id=ENDS)
    pieces = {"micro_batches": 2, "length_buckets": 3}
    found = ways.run("visa", mesh, choices=pieces, end_id=ENDS)
    assert ways.difference(expected, found) < 1e-5
    assert expected[1][0]["completions/mean_length"] < 4
