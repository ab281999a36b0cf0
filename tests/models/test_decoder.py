"""What a decoder must and must not let through: causality, padding, neighbours, cache, shared prefix."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.config import FieldError
from visa_jax.models import logical_axes, make_decoder
from visa_jax.models.layers import RopeScaling
from visa_jax.types import Prefix

OPTIONS = dict(qk_norm=True, bias=True, out_bias=True, tie_embeddings=False, kv_heads=1, scan_layers=False)


LOCAL = dict(
    window=3,
    local_layers=(True, False),
    local_rope_theta=50.0,
    rope_scaling=RopeScaling(kind="linear", factor=2.0),
    norm="rms_plus_one",
    post_norms=True,
    query_scalar=5,
    attention_cap=2.0,
    logit_cap=3.0,
    activation="gelu_tanh",
    scale_embedding=True,
)
LEARNED = dict(positions="learned", norm="layer", gated=False, mlp_bias=True, bias=True, window=4, layers=3)


@pytest.fixture(params=[{}, OPTIONS, LOCAL], ids=["plain", "options", "local"], scope="module")
def model(request, tiny, build):
    return build(tiny(**request.param))


@pytest.fixture(scope="module")
def plain(tiny, build):
    return build(tiny())


def ones(tokens):
    return jnp.ones(tokens.shape, bool)


def test_causality_by_gradient(model, tokens):
    """d hidden[t] / d key and value of token s is zero for s > t and not for s <= t: seen through the embedding."""
    lm, params = model
    ids = jnp.arange(1, 7)[None]  # each id once, so that the gradient of its embedding row is that of its place

    def read(table, t):
        return jnp.sum(lm.forward({**params, "embedding": table}, ids, ones(ids))[0, t] ** 3)

    grad_fn = jax.jit(jax.grad(read))
    for t in (0, 3, 5):
        gradient = np.abs(np.asarray(grad_fn(params["embedding"], t)[ids[0]])).sum(-1)
        assert (gradient[: t + 1] > 1e-6).all() and (gradient[t + 1 :] == 0).all(), (t, gradient)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_a_window_ends_where_it_says(tiny, build, scan_layers):
    """Through local layers with a window of 3 a token sees 2 tokens further back per layer, through a wide one all."""
    ids = jnp.arange(1, 8)[None]

    def seen(**changes):
        lm, params = build(tiny(scan_layers=scan_layers, **changes))
        read = lambda table: jnp.sum(lm.forward({**params, "embedding": table}, ids, ones(ids))[0, 6] ** 3)
        return (np.abs(jax.jit(jax.grad(read))(params["embedding"])[ids[0]]).sum(-1) > 1e-7).tolist()

    assert seen(layers=1, window=3) == [False] * 4 + [True] * 3
    assert seen(layers=2, window=3) == [False] * 2 + [True] * 5
    assert seen(layers=2, window=3, local_layers=(True, False)) == [True] * 7
    assert seen(layers=2, window=1, local_layers=(True, True)) == [False] * 6 + [True]


def test_a_window_reaches_back_into_the_prompt(tiny, build, tokens):
    """Behind a prompt of 5, token t of a completion sees places 3 + t and later; others change nothing."""
    lm, params = build(tiny(layers=1, window=3))
    prompt, completion = tokens(1, 1, 5), tokens(2, 1, 4)
    changed = prompt.at[0, 3].add(1)
    hidden = [lm.extend(params, ids, ones(ids), None, completion, ones(completion))[0][0] for ids in (prompt, changed)]
    moved = jnp.abs(hidden[0] - hidden[1]).max(-1)
    assert float(moved[0]) > 1e-3 and (moved[1:] == 0).all()


def test_learned_positions_and_layer_norms_hold_the_same_promises(tiny, build, tokens):
    """GPT-2's parts: padding changes nothing, and decoding behind a shared prefix is the forward pass."""
    lm, params = build(tiny(**LEARNED))
    prompt, completion, length = tokens(7, 2, 5), tokens(8, 4, 4), (5, 2)
    mask = jnp.arange(5)[None] < jnp.asarray(length)[:, None]
    prefix = lm.prefill(params, prompt, mask)
    extended, _ = lm.extend(params, prompt, mask, None, completion, ones(completion))
    cache = lm.init_cache(prefix, 4, 4)
    for step in range(4):
        hidden, cache = lm.decode(params, prefix, cache, completion[:, step], step)
        np.testing.assert_allclose(hidden, extended[:, step], atol=1e-5)
    for row, ids in enumerate(joined(prompt, length, completion, 2)):
        np.testing.assert_allclose(extended[row], lm.forward(params, ids, ones(ids))[0, -4:], atol=1e-5)


def test_caps_bound_and_keep_the_order(tiny, build, tokens):
    (lm, params), (capped, _) = build(tiny()), build(tiny(logit_cap=0.1))
    hidden = lm.forward(params, tokens(1, 1, 5), ones(tokens(1, 1, 5)))
    free, bounded = lm.logits(params, hidden), capped.logits(params, hidden)
    np.testing.assert_allclose(bounded, 0.1 * np.tanh(np.asarray(free) / 0.1), atol=1e-6)
    assert float(jnp.abs(free).max()) > 0.3 > 0.1 >= float(jnp.abs(bounded).max())


def test_bidirectional_sees_both_ways(tiny, build):
    lm, params = build(tiny(causal=False))
    ids = jnp.arange(1, 7)[None]

    def read(table):
        return jnp.sum(lm.forward({**params, "embedding": table}, ids, ones(ids))[0, 2] ** 3)

    assert (np.abs(jax.jit(jax.grad(read))(params["embedding"])[ids[0]]).sum(-1) > 1e-6).all()


def test_segments_do_not_see_each_other(tiny, build):
    """Two segments closed by token 3: each reads as if it stood alone."""
    lm, params = build(tiny(causal=False, segment_end=3))
    ids = jnp.asarray([[1, 2, 3, 4, 5, 6, 3]])
    both = lm.forward(params, ids, ones(ids))
    first, second = (lm.forward(params, part, ones(part)) for part in (ids[:, :3], ids[:, 3:]))
    np.testing.assert_allclose(both, jnp.concatenate([first, second], axis=1), atol=2e-5)
    whole = build(tiny(causal=False))[0].forward(params, ids, ones(ids))
    assert float(jnp.abs(whole - both).max()) > 0.01


def test_condition_is_added_to_every_token_of_the_prompt(tiny, build, tokens):
    """Every embedding of the prompt becomes e + sqrt(D) c W, and nothing else changes; W = 0 changes nothing."""
    lm, params = build(tiny(condition=2))
    plain_lm, _ = build(tiny())
    prompt, mask = jnp.pad(tokens(2, 2, 5), ((0, 0), (2, 0))), jnp.arange(7)[None] >= jnp.asarray([[2], [3]])
    condition = jnp.asarray([[0.3, 0.7], [1.0, 0.0]])
    kernel = params["condition"]["kernel"]
    bare = {name: part for name, part in params.items() if name != "condition"}
    without = plain_lm.prefill(bare, prompt, mask)
    silent = lm.prefill({**params, "condition": {"kernel": jnp.zeros_like(kernel)}}, prompt, mask, condition)
    np.testing.assert_array_equal(silent.last_hidden_ND, without.last_hidden_ND)
    told = lm.prefill(params, prompt, mask, condition)
    for row in range(2):
        added, one = kernel.shape[1] ** 0.5 * condition[row] @ kernel, slice(row, row + 1)
        table = bare["embedding"] + added[None, :]
        spelled = plain_lm.prefill({**bare, "embedding": table}, prompt[one], mask[one])
        np.testing.assert_allclose(told.last_hidden_ND[row], spelled.last_hidden_ND[0], atol=2e-5)
        assert float(jnp.abs(told.last_hidden_ND[row] - without.last_hidden_ND[row]).max()) > 0.01


@pytest.mark.parametrize("left, right", [(0, 3), (4, 0), (2, 5)])
def test_padding_on_either_side_changes_nothing(model, tokens, left, right):
    lm, params = model
    ids = tokens(2, 2, 6)
    padded = jnp.pad(ids, ((0, 0), (left, right)), constant_values=9)
    mask = jnp.pad(ones(ids), ((0, 0), (left, right)))
    hidden, hidden_padded = lm.forward(params, ids, ones(ids)), lm.forward(params, padded, mask)
    np.testing.assert_allclose(hidden_padded[:, left : left + 6], hidden, atol=1e-5)
    last, last_padded = (lm.prefill(params, x, m).last_hidden_ND for x, m in ((ids, ones(ids)), (padded, mask)))
    np.testing.assert_allclose(last, hidden[:, -1], atol=1e-5)
    np.testing.assert_allclose(last_padded, hidden[:, -1], atol=1e-5)


def test_a_sequence_does_not_feed_its_neighbour(model, tokens):
    lm, params = model
    ids = tokens(3, 2, 6)
    changed = ids.at[1].set(tokens(4, 1, 6)[0])
    hidden, other = lm.forward(params, ids, ones(ids)), lm.forward(params, changed, ones(ids))
    np.testing.assert_array_equal(hidden[0], other[0])
    assert np.abs(hidden[1] - other[1]).max() > 1e-2


def joined(prompt, length, completion, group):
    """Rows of prompt and completion without any padding between, one by one."""
    return [
        jnp.concatenate([prompt[row // group, : length[row // group]], completion[row]])[None]
        for row in range(completion.shape[0])
    ]


def test_extend_is_forward_on_the_concatenation(model, tokens):
    lm, params = model
    prompt, completion, length, group = tokens(5, 2, 6), tokens(6, 6, 4), (6, 3), 3
    mask = jnp.arange(6)[None] < jnp.asarray(length)[:, None]
    hidden, last = lm.extend(params, prompt, mask, None, completion, ones(completion))
    for row, ids in enumerate(joined(prompt, length, completion, group)):
        whole = lm.forward(params, ids, ones(ids))[0]
        np.testing.assert_allclose(hidden[row], whole[-4:], atol=1e-5)
        np.testing.assert_allclose(last[row // group], whole[-5], atol=1e-5)


def test_gradient_of_extend_reaches_the_prompt_once_per_group(plain, tokens):
    """The gradient through a shared prefix equals that of separate whole texts."""
    lm, params = plain
    prompt, completion, group = tokens(5, 2, 6), tokens(6, 6, 4), 3

    def shared(params):
        return jnp.sum(lm.extend(params, prompt, ones(prompt), None, completion, ones(completion))[0] ** 3)

    def apart(params):
        whole = jnp.concatenate([jnp.repeat(prompt, group, axis=0), completion], axis=1)
        return jnp.sum(lm.forward(params, whole, ones(whole))[:, 6:] ** 3)

    expected, got = jax.jit(jax.grad(apart))(params), jax.jit(jax.grad(shared))(params)
    for left, right in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-3 * float(jnp.abs(left).max()))


@pytest.mark.parametrize("choices", [{}, LOCAL, LEARNED, dict(layers=1, attention_cap=1.0), dict(remat="full")])
def test_a_last_layer_in_which_only_wanted_tokens_ask_is_the_forward_pass(tiny, build, tokens, choices):
    """Unrolled layers leave out what nobody reads: states, keys and gradients are those of all tokens."""
    (lm, params), (scanned, _) = (build(tiny(**choices, scan_layers=scan)) for scan in (False, True))
    prompt, completion, column = tokens(3, 3, 6), tokens(4, 6, 3), jnp.arange(6)[None]
    mask = jnp.concatenate([column < 6, column < 2, column > 2])  # whole, padded on the right, on the left

    def read(lm, params):
        prefix = lm.prefill(params, prompt, mask)
        keys = (x * mask[None, :, :, None, None] for x in (prefix.key_XNLHC, prefix.value_XNLHC))
        extended, last = lm.extend(params, prompt, mask, None, completion, ones(completion))
        return extended, prefix.last_hidden_ND, last, *keys

    def of_all_tokens(params):
        hidden = scanned.forward(params, prompt, mask)
        last = jnp.take_along_axis(hidden, jnp.asarray([5, 1, 5])[:, None, None], axis=1)[:, 0]
        extended, _, _, *keys = read(scanned, params)
        return extended, last, last, *keys

    def gradient(read):
        return jax.jit(jax.grad(lambda params: sum(jnp.sum(x**3) for x in read(params))))(params)

    for left, right in zip(read(lm, params), of_all_tokens(params), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
    got, expected = gradient(lambda params: read(lm, params)), gradient(of_all_tokens)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4 * float(jnp.abs(right).max()) + 1e-6)


def test_cached_decode_is_the_full_forward(model, tokens):
    lm, params = model
    prompt, completion, length = tokens(7, 2, 5), tokens(8, 4, 6), (5, 2)
    prefix = lm.prefill(params, prompt, jnp.arange(5)[None] < jnp.asarray(length)[:, None])
    cache, steps = lm.init_cache(prefix, 4, 6), []
    for step in range(6):
        hidden, cache = lm.decode(params, prefix, cache, completion[:, step], step)
        steps.append(lm.logits(params, hidden))
    logits = jnp.stack(steps, axis=1)
    for row, ids in enumerate(joined(prompt, length, completion, 2)):
        np.testing.assert_allclose(
            logits[row], lm.logits(params, lm.forward(params, ids, ones(ids)))[0, -6:], atol=1e-5
        )


def test_scanned_unrolled_and_rematerialised_layers_agree(tiny, tokens, plain):
    ids = tokens(9, 2, 6)

    def gradient(**changes):
        lm, _ = make_decoder(tiny(**changes))
        return jax.jit(jax.grad(lambda p: jnp.sum(lm.logits(p, lm.forward(p, ids, ones(ids))) ** 2)))(plain[1])

    expected = gradient()
    for changes in (dict(scan_layers=False), dict(remat="full"), dict(remat="dots", scan_layers=False)):
        for left, right in zip(jax.tree.leaves(expected), jax.tree.leaves(gradient(**changes)), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4 * float(jnp.abs(left).max()))


def test_bfloat16_computes_narrow_and_stays_near(tiny, tokens, plain, build):
    (lm, params), ids = plain, tokens(1, 2, 6)
    narrow, _ = build(tiny(dtype="bfloat16"))
    hidden = narrow.forward(params, ids, ones(ids))
    assert hidden.dtype == jnp.bfloat16 and narrow.logits(params, hidden).dtype == jnp.float32
    np.testing.assert_allclose(hidden.astype(jnp.float32), lm.forward(params, ids, ones(ids)), atol=0.1)


@pytest.mark.parametrize("choices", [dict(bias=True, qk_norm=True, tie_embeddings=False), LOCAL, LEARNED])
def test_logical_axes_name_every_dimension(tiny, choices):
    config = tiny(**{**choices, "layers": 2})
    params, axes = jax.eval_shape(make_decoder(config)[1], jax.random.key(0)), logical_axes(config)
    sizes = dict(vocab=23, embed=16, norm=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=24, positions=512)
    shapes = jax.tree.map(
        lambda names: tuple(sizes[name] for name in names), axes, is_leaf=lambda x: isinstance(x, tuple)
    )
    assert jax.tree.map(lambda leaf: leaf.shape, params) == shapes
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_second_call_compiles_nothing(plain, tokens, compiles):
    lm, params = plain
    step = jax.jit(lambda params, ids: lm.logits(params, lm.forward(params, ids, ids > 0)))
    first, second = tokens(1, 2, 6), tokens(2, 2, 6)
    jax.block_until_ready(step(params, first))
    compiles.reset()
    jax.block_until_ready(step(params, second))
    assert compiles.count == 0, compiles.names


@pytest.mark.parametrize(
    "field, value",
    [
        ("kv_heads", 3),
        ("head_dim", 7),
        ("width", 0),
        ("layers", -1),
        ("dtype", "int8"),
        ("remat", "some"),
        ("norm_eps", 0.0),
        ("condition", -1),
        ("segment_end", 3),  # of a causal decoder
        ("window", 0),
        ("local_layers", (True,)),  # of a decoder with two
        ("local_layers", (True, False)),  # without a window
        ("norm", "batch"),
        ("activation", "relu"),
        ("positions", "none"),
        ("logit_cap", -1.0),
    ],
)
def test_impossible_sizes_are_refused_by_name(tiny, field, value):
    with pytest.raises(FieldError, match=field):
        tiny(**{field: value})


def test_config_is_frozen(tiny):
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny().width = 3


def test_prefix_is_a_pytree(plain, tokens):
    lm, params = plain
    prefix = lm.prefill(params, tokens(1, 2, 6), ones(tokens(1, 2, 6)))
    assert isinstance(prefix, Prefix) and prefix.key_XNLHC.shape == (2, 2, 6, 2, 8)
