import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.losses import reduce_tokens, token_weights
from visa_jax.losses.reduce import REDUCTIONS

MASK = jnp.array([[True, True, False], [True, False, False], [False, False, False]])
LOSS = jnp.array([[1.0, 2.0, jnp.nan], [4.0, jnp.inf, 9.0], [5.0, 5.0, 5.0]])

BY_HAND = {
    "grpo": ((1 + 2) / 2 + 4 / 1 + 0) / 3,
    "sapo": ((1 + 2) / 2 + 4 / 1 + 0) / 3,
    "bnpo": (1 + 2 + 4) / 3,
    "dapo": (1 + 2 + 4) / 3,
    "cispo": (1 + 2 + 4) / 3,
    "dr_grpo": (1 + 2 + 4) / (3 * 8),
    "luspo": (1 + 2 + 4) / 3,
}


@pytest.mark.parametrize("loss_type", REDUCTIONS)
def test_by_hand(loss_type):
    np.testing.assert_allclose(reduce_tokens(loss_type, LOSS, MASK, 8).mean(), BY_HAND[loss_type], rtol=1e-6)


@pytest.mark.parametrize("loss_type", REDUCTIONS)
def test_token_weights_are_the_gradient_of_the_loss(loss_type):
    gradient = jax.grad(lambda x: reduce_tokens(loss_type, x, MASK, 8).mean())(LOSS)
    np.testing.assert_allclose(token_weights(loss_type, MASK, 8), gradient, rtol=1e-6)


def test_luspo_and_dapo_differ_when_no_row_is_empty():
    loss, mask = LOSS[:2], MASK[:2]
    np.testing.assert_allclose(reduce_tokens("luspo", loss, mask).mean(), 7 / 2)
    np.testing.assert_allclose(reduce_tokens("dapo", loss, mask).mean(), 7 / 3)


def test_nothing_counted_is_zero():
    for loss_type in REDUCTIONS:
        assert reduce_tokens(loss_type, LOSS, jnp.zeros_like(MASK), 8).mean() == 0
        np.testing.assert_array_equal(token_weights(loss_type, jnp.zeros_like(MASK), 8), 0)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="loss_type"):
        reduce_tokens("mean", LOSS, MASK)
    with pytest.raises(ValueError, match="max_completion_length"):
        token_weights("dr_grpo", MASK)
