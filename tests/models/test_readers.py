"""Readers whose parameters lie in fewer bytes."""

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.models.readers import hold, make_reward_reader


def test_a_trunk_that_computes_in_bfloat16_reads_the_same_from_parameters_held_in_it(tiny, build, tokens):
    """It rounds them where it uses them; held rounded, they are rounded once. The head stays as it is."""
    lm, decoder = build(tiny(dtype="bfloat16"))
    score, init_head = make_reward_reader(lm)
    params = {"decoder": decoder, "head": init_head(jax.random.key(1), 16)}
    held = hold(params, "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(held["decoder"])} == {jnp.bfloat16.dtype}
    assert held["head"] is params["head"]
    texts = tokens(1, 2, 5), jnp.ones((2, 5), bool), tokens(2, 4, 3), jnp.ones((4, 3), bool)
    np.testing.assert_array_equal(score(held, *texts), score(params, *texts))
