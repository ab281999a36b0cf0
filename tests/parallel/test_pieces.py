"""What a mesh changes in where arrays lie changes no number: kernels on pieces, chunks of log-probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.parallel import MeshConfig, make_mesh, on_mesh, per_device, pieces
from visa_jax.rollout import completion_logps
from visa_jax.types import PromptBatch, Rollout

QUERY, KEY = ("batch", "length", "heads"), ("batch", "length", "kv_heads")
SIZES = dict(vocab_size=32, width=16, layers=1, heads=2, kv_heads=2, head_dim=8, mlp_width=24, max_length=32)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(fsdp=2, tensor=2))


@pytest.mark.parametrize(("heads", "held"), [(4, 2), (3, 3)], ids=["heads divide", "heads do not"])
def test_a_function_of_rows_and_heads_sees_its_piece(mesh, heads, held):
    seen = []

    def scores(query_BTQ, key_BTH, nothing):
        assert nothing is None
        seen.append(query_BTQ.shape)
        return query_BTQ * jnp.sum(key_BTH, axis=1, keepdims=True)

    query, key = (jax.random.normal(jax.random.key(i), (4, 5, heads)) for i in range(2))
    expected = scores(query, key, None)
    got = jax.jit(on_mesh(per_device(scores, (QUERY, KEY, None), QUERY), mesh))(query, key, None)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert seen[-1] == (2, 5, held)
    assert pieces("batch") == 1 and on_mesh(lambda: pieces("batch"), mesh)() == 2


@pytest.mark.parametrize("tied", [True, False])
def test_chunks_of_logps_are_those_of_one_device(mesh, tied):
    """Four chunks of columns: the output layer is gathered before them."""
    lm, init_fn = make_decoder(DecoderConfig(**SIZES, tie_embeddings=tied))
    params = init_fn(jax.random.key(0))
    rng = np.random.default_rng(0)
    prompt, completion = (rng.integers(0, 32, shape).astype(np.int32) for shape in ((2, 6), (4, 8)))
    whole = dict(condition_NM=np.zeros((2, 1)), context_NS=prompt, context_mask_NS=prompt >= 0)
    prompts = PromptBatch(prompt_NL=prompt, prompt_mask_NL=prompt >= 0, **whole)
    mask_BT = np.arange(8)[None] < np.array([[8], [3], [8], [5]])
    rollout = Rollout(prompts=prompts, completion_BT=completion, mask_BT=mask_BT, logp_BT=np.zeros((4, 8)))

    def total(params, rollout):
        logp_BT, _ = completion_logps(lm, params, rollout, chunk=8)
        return jnp.sum(jnp.sin(logp_BT)), logp_BT

    alone = jax.jit(jax.value_and_grad(total, has_aux=True))(params, rollout)
    spread = jax.jit(on_mesh(jax.value_and_grad(total, has_aux=True), mesh))(params, rollout)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
