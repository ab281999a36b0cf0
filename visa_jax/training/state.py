"""The state of a run at its first step, and its shapes."""

import jax
import jax.numpy as jnp
import optax

from visa_jax.types import Params, TrainState


def init_state(params: Params, optimizer: optax.GradientTransformation, method_state, key: jax.Array) -> TrainState:
    """TrainState at step 0; ``key`` is the run's typed key, never consumed: steps use fold_in(key, step)."""
    return TrainState(
        step=jnp.int32(0), params=params, opt_state=optimizer.init(params), method_state=method_state, key=key
    )


def state_shapes(params: Params, optimizer: optax.GradientTransformation, method_state, key: jax.Array) -> TrainState:
    """``init_state`` on shapes: nothing is computed, and arguments may be shapes themselves."""
    return jax.eval_shape(lambda *args: init_state(args[0], optimizer, *args[1:]), params, method_state, key)
