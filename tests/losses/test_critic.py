import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.losses import critic_loss, critic_loss_sum

OLD = jnp.array([[0.0, 0.0, 0.0]])
NEW = jnp.array([[0.5, 0.5, 0.1]])
RETURN = jnp.array([[1.0, 0.4, 0.3]])
MASK = jnp.array([[True, True, True]])
# clip .2: V clipped to .2 .2 .1; (V - R)² = .25 .01 .04, (clipped - R)² = .64 .04 .04


def test_by_hand():
    np.testing.assert_allclose(critic_loss(NEW, OLD, RETURN, MASK, clip=0.2), 0.5 * (0.64 + 0.04 + 0.04) / 3, rtol=1e-6)
    np.testing.assert_allclose(critic_loss(NEW, OLD, RETURN, MASK, clip=9.0), 0.5 * (0.25 + 0.01 + 0.04) / 3, rtol=1e-6)


def test_masked_tokens_do_not_count():
    mask = jnp.array([[True, False, True]])
    dirty = NEW.at[0, 1].set(jnp.nan)
    np.testing.assert_allclose(critic_loss(dirty, OLD, RETURN, mask, clip=0.2), 0.5 * (0.64 + 0.04) / 2, rtol=1e-6)
    gradient = jax.grad(critic_loss)(dirty, OLD, RETURN, mask, clip=0.2)
    np.testing.assert_allclose(gradient, [[0, 0, (0.1 - 0.3) / 2]], rtol=1e-6)


def test_micro_batches_add_up():
    rng = np.random.default_rng(0)
    arrays = [jnp.array(rng.normal(size=(4, 3)), jnp.float32) for _ in range(3)] + [jnp.array(rng.random((4, 3)) < 0.6)]
    parts = [critic_loss_sum(*(x[rows] for x in arrays), clip=0.2) for rows in (slice(0, 1), slice(1, 4))]
    np.testing.assert_allclose((parts[0] + parts[1]).mean(), critic_loss(*arrays, clip=0.2), rtol=1e-6)
