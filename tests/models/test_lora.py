"""Adapters: off they change nothing bit for bit, on they are W + scale A B; gradients reach them and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from visa_jax.config import UserError
from visa_jax.models.layers import product
from visa_jax.models.lora import LoraConfig, LowRank, attach, init_adapters, merge_adapters
from visa_jax.models.quantize import dense_params, quantize_params

ALL = LoraConfig(rank=3, alpha=6.0, pattern="attention/(query|key|value|out)|mlp/.*|output")


def trained(adapters):
    """Adapters whose B is away from zero."""
    draw = np.random.default_rng(5).normal
    return jax.tree.map(lambda leaf: jnp.asarray(draw(size=leaf.shape) * 0.2, jnp.float32), adapters)


def test_product_by_hand():
    # x W = 1·2 + 2·3 = 8; x A = 1·1 + 2·(-1) = -1, halved and times B = 4: -2
    low = LowRank(kernel=jnp.array([[2.0], [3.0]]), a=jnp.array([[1.0], [-1.0]]), b=jnp.array([[4.0]]), scale=0.5)
    assert product(jnp.array([[1.0, 2.0]]), low).tolist() == [[6.0]]
    assert LoraConfig(rank=64, alpha=128.0).scale == 2.0


def test_shapes_and_start(tiny, build):
    _, params = build(tiny(tie_embeddings=False))
    adapters = init_adapters(jax.random.key(0), params, ALL)
    shapes = {"/".join(path): leaf.shape for path, leaf in flatten_dict(adapters).items()}
    assert shapes["layers/attention/query/a"] == (2, 16, 3) and shapes["layers/attention/query/b"] == (2, 3, 4 * 8)
    assert shapes["layers/attention/out/a"] == (2, 4 * 8, 3) and shapes["layers/attention/out/b"] == (2, 3, 16)
    assert shapes["output/a"] == (16, 3) and shapes["output/b"] == (3, 23)
    assert len(shapes) == 2 * 8
    assert all((leaf == 0).all() for path, leaf in flatten_dict(adapters).items() if path[-1] == "b")
    wide = init_adapters(jax.random.key(0), params, LoraConfig(rank=4000, pattern="mlp/down"))
    np.testing.assert_allclose(jnp.std(wide["layers"]["mlp"]["down"]["a"]), (3 * 24) ** -0.5, rtol=1e-2)


def test_a_start_depends_on_key_and_path_only(tiny, build):
    _, params = build(tiny())
    few = init_adapters(jax.random.key(0), jax.eval_shape(lambda: params), LoraConfig(rank=3, pattern="query"))
    many = init_adapters(jax.random.key(0), quantize_params(params), LoraConfig(rank=3, pattern="attention/.*"))
    first, again = few["layers"]["attention"]["query"]["a"], many["layers"]["attention"]["query"]["a"]
    assert (first == again).all() and set(few["layers"]["attention"]) == {"query"}
    assert not np.allclose(first[0], first[1]) and not np.allclose(again, many["layers"]["attention"]["key"]["a"])
    other = init_adapters(jax.random.key(1), params, LoraConfig(rank=3, pattern="query"))
    assert not np.allclose(first, other["layers"]["attention"]["query"]["a"])


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("kind", ["float", "int8", "nf4"])
def test_adapted_is_merged(tiny, build, tokens, kind, scan_layers):
    """forward, prefill + extend, decode and logits, plain and on a quantised base, are those of W + scale A B."""
    lm, params = build(tiny(scan_layers=scan_layers, tie_embeddings=False))
    base = params if kind == "float" else quantize_params(params, kind, block=8)
    adapters = trained(init_adapters(jax.random.key(0), base, ALL))
    policies = attach(base, adapters, ALL), merge_adapters(dense_params(base), adapters, ALL)
    prompt, completion = tokens(1, 2, 5), tokens(2, 4, 3)
    seen, shown = jnp.ones(prompt.shape, bool), jnp.ones(completion.shape, bool)
    results = []
    for policy in policies:
        prefix = lm.prefill(policy, prompt, seen)
        stepped, _ = lm.decode(policy, prefix, lm.init_cache(prefix, 4, 2), completion[:, 0], 0)
        extended = lm.extend(policy, prompt, seen, None, completion, shown)[0]
        np.testing.assert_allclose(stepped, extended[:, 0], atol=1e-5)
        results.append((lm.logits(policy, lm.forward(policy, prompt, seen)), lm.logits(policy, extended)))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5), *results)
    plain = lm.logits(base, lm.forward(base, prompt, seen))
    assert float(jnp.abs(plain - results[0][0]).max()) > 0.05


def test_without_adapters_nothing_changes_and_fresh_ones_are_off(tiny, build, tokens):
    lm, params = build(tiny())
    ids = tokens(1, 2, 6)
    mask = jnp.ones(ids.shape, bool)
    config = LoraConfig(rank=3, pattern="attention/.*|mlp/.*")
    adapters = init_adapters(jax.random.key(0), params, config)
    policy = attach(params, adapters, config)
    assert (lm.forward(policy, ids, mask) == lm.forward(params, ids, mask)).all()
    merged = merge_adapters(params, adapters, config)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    up = policy["layers"]["mlp"]["up"]["kernel"]
    assert up.kernel is params["layers"]["mlp"]["up"]["kernel"]  # attached and not copied


def test_what_is_no_adapter_is_trained_whole(tiny, build, tokens):
    """A parameter among the adapters takes the base's place, attached and merged."""
    lm, params = build(tiny())
    ids = tokens(1, 2, 6)
    mask = jnp.ones(ids.shape, bool)
    config = LoraConfig(rank=3, pattern="attention/.*")
    adapters = init_adapters(jax.random.key(0), params, config)
    adapters["norm"] = {"scale": params["norm"]["scale"] * 2}
    expected = 2 * lm.forward(params, ids, mask)  # the last norm scales every state
    for policy in (attach(params, adapters, config), merge_adapters(params, adapters, config)):
        np.testing.assert_allclose(lm.forward(policy, ids, mask), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["float", "int8", "nf4"])
def test_gradients_are_those_of_the_merged_kernels(tiny, build, tokens, kind):
    """dL/dA = scale dL/dW' Bᵀ and dL/dB = scale Aᵀ dL/dW', W' the merged kernel; full remat changes nothing."""
    lm, params = build(tiny(remat="full"))
    base = params if kind == "float" else quantize_params(params, kind, block=8)
    config = LoraConfig(rank=3, alpha=6.0, pattern="attention/.*|mlp/.*")
    adapters, ids = trained(init_adapters(jax.random.key(0), base, config)), tokens(1, 2, 6)

    def loss(policy):
        return jnp.sum(jnp.sin(lm.forward(policy, ids, jnp.ones(ids.shape, bool))))

    grads = flatten_dict(jax.grad(lambda low: loss(attach(base, low, config)))(adapters))
    merged = flatten_dict(jax.grad(loss)(merge_adapters(dense_params(base), adapters, config)))
    flat = flatten_dict(adapters)
    assert set(grads) == set(flat)
    for path in [path[:-1] for path in flat if path[-1] == "a"]:
        a, b = flat[*path, "a"], flat[*path, "b"]
        whole = merged[*path, "kernel"].reshape(a.shape[0], a.shape[1], b.shape[2])
        np.testing.assert_allclose(grads[*path, "a"], 2 * whole @ b.swapaxes(1, 2), rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(grads[*path, "b"], 2 * a.swapaxes(1, 2) @ whole, rtol=2e-3, atol=2e-3)
        assert float(jnp.abs(grads[*path, "a"]).max()) > 1e-2


def test_a_pattern_names_whole_modules(tiny, build):
    _, params = build(tiny(qk_norm=True))

    def pick(pattern):
        adapters = init_adapters(jax.random.key(0), params, LoraConfig(rank=1, pattern=pattern))
        return {"/".join(path[1:-1]) for path in flatten_dict(adapters)}

    assert pick("attention/(query|value)|mlp/.*") == set(
        "attention/query attention/value mlp/gate mlp/up mlp/down".split()
    )
    assert pick("layers/mlp/up") == pick("up") == {"mlp/up"}
    for pattern, message in (("quer", "names none of"), ("(query", "is no regular expression")):
        with pytest.raises(UserError, match=message):
            pick(pattern)


def test_refusals(tiny, build):
    _, params = build(tiny())
    adapters = init_adapters(jax.random.key(0), params, LoraConfig(rank=1, pattern="mlp/up"))
    with pytest.raises(UserError, match="layers/mlp/up/kernel: is quantised"):
        merge_adapters(quantize_params(params), adapters, LoraConfig(rank=1, pattern="mlp/up"))
    with pytest.raises(UserError, match="rank: must be at least 1, not 0"):
        LoraConfig(rank=0)
    with pytest.raises(UserError, match="alpha: must be positive"):
        LoraConfig(alpha=0)
