"""A tiny decoder for the tests of models."""

import jax
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

        @jax.jit
        def draw(key):
            leaves, tree = jax.tree.flatten(init_fn(key))
            keys = jax.random.split(key, len(leaves))
            noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
            return jax.tree.unflatten(tree, noisy)

        jitted = {name: jax.jit(getattr(lm, name)) for name in ("forward", "prefill", "extend", "decode", "logits")}
        return lm._replace(**jitted), draw(jax.random.key(0))

    return build
