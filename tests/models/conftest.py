"""A tiny decoder for the tests of models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.models import DecoderConfig, make_decoder

TINY = dict(vocab_size=23, width=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=24)


@pytest.fixture(scope="session")
def tiny():
    """Make a tiny DecoderConfig; grouped heads, so that a wrong head order shows."""
    return lambda **changes: DecoderConfig(**{**TINY, **changes})


@pytest.fixture(scope="session")
def tokens():
    """Make random ids [rows, length] of the tiny vocabulary, never 0."""
    return lambda seed, rows, length: jax.random.randint(jax.random.key(seed), (rows, length), 1, TINY["vocab_size"])


@pytest.fixture(scope="session")
def build():
    """Make (jitted lm, params) of a config, with every parameter away from its start, so that zero biases count."""

    def build(config):
        lm, init_fn = make_decoder(config)
        draw = np.random.default_rng(0).normal
        shapes = jax.eval_shape(init_fn, jax.random.key(0))
        params = jax.tree.map(lambda leaf: jnp.asarray(draw(size=leaf.shape) * 0.25, jnp.float32), shapes)
        jitted = {name: jax.jit(getattr(lm, name)) for name in ("forward", "prefill", "extend", "decode", "logits")}
        return lm._replace(**jitted), params

    return build
