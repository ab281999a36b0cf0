"""What an update and a generation may hold: compiled on CPU from abstract arguments, nothing is allocated."""

import jax
import jax.numpy as jnp
import pytest

from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.models.quantize import quantize_params
from visa_jax.rollout import generate
from visa_jax.training.policy import make_policy_fn
from visa_jax.types import PromptBatch, Rollout

ROWS, TOKENS, WIDTH = 8, 4096, 1024


def temporaries(vocabulary: int) -> int:
    """Bytes that log-probabilities and their gradient need beside arguments and results."""
    sizes = dict(width=WIDTH, layers=1, heads=1, kv_heads=1, head_dim=64, mlp_width=64)
    lm, init_fn = make_decoder(DecoderConfig(vocab_size=vocabulary, max_length=2 * TOKENS, **sizes))
    policy_fn = make_policy_fn(lm, temperature=1.0)
    of = jax.ShapeDtypeStruct
    prompts = PromptBatch(
        prompt_NL=of((ROWS, 8), jnp.int32),
        prompt_mask_NL=of((ROWS, 8), bool),
        condition_NM=of((ROWS, 1), jnp.float32),
        context_NS=of((ROWS, 1), jnp.int32),
        context_mask_NS=of((ROWS, 1), bool),
    )
    shape = (ROWS, TOKENS)
    rollout = Rollout(
        prompts=prompts,
        completion_BT=of(shape, jnp.int32),
        mask_BT=of(shape, bool),
        logp_BT=of(shape, jnp.float32),
    )
    params = {"decoder": jax.eval_shape(init_fn, jax.random.key(0))}
    gradient = jax.grad(lambda params, rollout: jnp.sum(policy_fn(params, rollout)[0]))
    return jax.jit(gradient).lower(params, rollout).compile().memory_analysis().temp_size_in_bytes


def test_a_large_vocabulary_costs_an_eighth_of_its_logits_at_most():
    """151,936 entries instead of 1,024: at most 1/8 of [B, T, V] in float32 and the head's own gradient more."""
    large, small = 151_936, 1_024
    logits = ROWS * TOKENS * large * 4
    head = large * WIDTH * 4
    assert temporaries(large) - temporaries(small) <= logits / 8 + head


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_generation_from_a_quantised_base_never_holds_it_dense(kind):
    """Beside a copy of the codes, cut into layers once, two dense layers at most: not all, in or before the loop."""
    layers, sizes = 8, dict(width=256, heads=4, kv_heads=4, head_dim=64, mlp_width=512)
    lm, init_fn = make_decoder(DecoderConfig(vocab_size=32, layers=layers, **sizes))
    of, rows = jax.ShapeDtypeStruct, (2, 4)
    prompts = PromptBatch(
        prompt_NL=of(rows, jnp.int32),
        prompt_mask_NL=of(rows, bool),
        condition_NM=of((2, 1), jnp.float32),
        context_NS=of((2, 1), jnp.int32),
        context_mask_NS=of((2, 1), bool),
    )
    plain = jax.eval_shape(init_fn, jax.random.key(0))
    frozen = jax.eval_shape(lambda params: quantize_params(params, kind), plain)
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    limits = dict(group_size=1, max_new_tokens=4, end_id=2, pad_id=0)
    program = jax.jit(lambda params, prompts, key: generate(lm, params, prompts, key, **limits))
    found = program.lower(frozen, prompts, jax.eval_shape(lambda: jax.random.key(0))).compile().memory_analysis()
    assert found.temp_size_in_bytes <= size(frozen["layers"]) + 2 * size(plain["layers"]) / layers
