"""Generation: known texts from tables, ends and masks, early stop, and agreement with recomputed log-probabilities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.rollout import completion_logps, generate
from visa_jax.rollout.logprobs import chunk_size

END, PAD = 3, 0


@pytest.fixture(scope="module")
def decoder():
    """(lm, params) of a tiny decoder, sharp enough that greedy texts differ between prompts."""
    lm, init_fn = make_decoder(
        DecoderConfig(vocab_size=11, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=16)
    )
    return lm, jax.tree.map(lambda leaf: 2 * leaf, jax.jit(init_fn)(jax.random.key(0)))


def jitted(lm, **settings):
    return jax.jit(functools.partial(generate, lm, end_id=END, pad_id=PAD, **settings))


def test_end_token_is_kept_and_nothing_counts_after_it(table_lm, prompt_batch, chain):
    lm, params = table_lm(6), chain((1, 2), (2, END), (END, 5), (4, END), vocab=6)
    prompts = prompt_batch([[5, 1], [4, 5]], [2, 1])
    rollout = jitted(lm, group_size=2, max_new_tokens=4)(params, prompts, jax.random.key(0))
    expected = [[2, END, PAD, PAD]] * 2 + [[END, PAD, PAD, PAD]] * 2
    np.testing.assert_array_equal(rollout.completion_BT, expected)
    np.testing.assert_array_equal(rollout.mask_BT, [[1, 1, 0, 0]] * 2 + [[1, 0, 0, 0]] * 2)
    assert (np.asarray(rollout.logp_BT)[~np.asarray(rollout.mask_BT)] == 0).all()


def test_any_of_several_ends_ends_a_row_and_is_kept(table_lm, prompt_batch, chain):
    lm, params = table_lm(6), chain((1, 2), (2, END), (4, 5), (5, 1), vocab=6)
    run = functools.partial(generate, lm, group_size=1, max_new_tokens=3, pad_id=PAD)
    prompts = prompt_batch([[5, 1], [4, 4]], [2, 1])
    rollout = jax.jit(functools.partial(run, end_id=(END, 5)))(params, prompts, jax.random.key(0))
    np.testing.assert_array_equal(rollout.completion_BT, [[2, END, PAD], [5, PAD, PAD]])
    np.testing.assert_array_equal(rollout.mask_BT, [[1, 1, 0], [1, 0, 0]])
    one, alone = (
        jax.jit(functools.partial(run, end_id=ends)).lower(params, prompts, jax.random.key(0)).as_text()
        for ends in (END, (END,))
    )
    assert one == alone  # a list of one is the same program


def test_a_completion_without_end_fills_the_length(table_lm, prompt_batch, chain):
    lm, params = table_lm(6), chain((1, 2), (2, 4), (4, 2), vocab=6)
    rollout = jitted(lm, group_size=1, max_new_tokens=3)(params, prompt_batch([[1]]), jax.random.key(0))
    np.testing.assert_array_equal(rollout.completion_BT, [[2, 4, 2]])
    assert rollout.mask_BT.all()


@pytest.mark.parametrize("starts, steps", [([4, 4], 0), ([1, 4], 1), ([5, 4], 6)])
def test_early_stop_runs_no_more_steps_than_the_longest_row(table_lm, prompt_batch, starts, steps, chain):
    seen = []
    lm = table_lm(6, on_decode=lambda step: seen.append(int(step)))
    params = chain((4, END), (1, 2), (2, END), (5, 5), vocab=6)
    rollout = jitted(lm, group_size=1, max_new_tokens=7)(params, prompt_batch([[s] for s in starts]), jax.random.key(0))
    jax.block_until_ready(rollout)
    jax.effects_barrier()
    assert sorted(seen) == list(range(steps))


def test_second_token_follows_the_table(table_lm, prompt_batch):
    """Pairs of two sampled tokens against the product of known probabilities, by chi-square."""
    probs = np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25], [0.3, 0.6, 0.1]])
    run = jax.jit(functools.partial(generate, table_lm(3), group_size=10_000, max_new_tokens=2, end_id=-1, pad_id=0))
    rollout = run(jnp.log(jnp.asarray(probs, jnp.float32)), prompt_batch([[1]]), jax.random.key(1))
    counts = np.bincount(rollout.completion_BT @ np.array([3, 1]), minlength=9)
    expected = (probs[1][:, None] * probs).ravel() * 10_000
    assert stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize("chunk", [None, 2])
def test_sampled_logp_is_the_recomputed_one(decoder, prompt_batch, chunk):
    lm, params = decoder
    prompts = prompt_batch(jax.random.randint(jax.random.key(3), (3, 5), 1, 11), [5, 3, 1])
    rollout = jitted(lm, group_size=4, max_new_tokens=6, temperature=0.7)(params, prompts, jax.random.key(4))
    logp, state = jax.jit(functools.partial(completion_logps, lm, temperature=0.7, chunk=chunk))(params, rollout)
    assert 0.2 < np.asarray(rollout.mask_BT).mean() < 1  # some rows end early, not all at once
    np.testing.assert_allclose(logp, rollout.logp_BT, atol=1e-4)
    assert state.shape == (12, 6, 16)


def test_chunks_change_neither_logps_nor_gradients(decoder, prompt_batch):
    lm, params = decoder
    prompts = prompt_batch(jax.random.randint(jax.random.key(3), (2, 5), 1, 11))
    rollout = jitted(lm, group_size=2, max_new_tokens=4)(params, prompts, jax.random.key(4))

    @functools.partial(jax.jit, static_argnames="chunk")
    def gradient(params, chunk):
        loss = lambda params: jnp.sum(completion_logps(lm, params, rollout, chunk=chunk)[0] ** 2)
        return jax.grad(loss)(params)

    whole = gradient(params, 1000)
    for chunk in (1, 3, 8):  # 16 tokens: 3 does not divide them
        for expected, got in zip(jax.tree.leaves(whole), jax.tree.leaves(gradient(params, chunk)), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_chunks_cover_all_tokens_and_stay_near_their_size():
    assert chunk_size(100, 1000, 64) == 100  # few logits: all at once
    assert chunk_size(4096, 8192, 2560) == 512  # 2^22 logits
    for tokens, vocabulary in ((32_768, 151_936), (5000, 8192), (1025, 50_000)):
        chunk = chunk_size(tokens, vocabulary, 2560)
        pieces = -(-tokens // chunk)
        assert 512 <= chunk < 2 * 512 and pieces * chunk - tokens < pieces


def test_chunks_on_several_devices_are_as_long_as_the_head_is_wide():
    """Of 8 devices each has 2560 tokens of a chunk at least, and all chunks cover all tokens."""
    for tokens, chunks in ((8 * 4096, 1), (8 * 5120, 2), (8 * 8000, 3)):
        chunk = chunk_size(tokens, 151_936, 2560, devices=8)
        assert chunk % 8 == 0 and chunk // 8 >= 2560 and -(-tokens // chunk) == chunks
    assert chunk_size(8 * 5120, 151_936, 256, devices=8) == 8 * 512  # a narrow head: as on one device


def test_states_are_those_that_predict_each_token(table_lm, prompt_batch, chain):
    lm, params = table_lm(6), chain((1, 2), (2, 4), (4, 5), vocab=6)
    rollout = jitted(lm, group_size=2, max_new_tokens=3)(params, prompt_batch([[1]]), jax.random.key(0))
    _, state = completion_logps(lm, params, rollout)
    np.testing.assert_array_equal(jnp.argmax(state, axis=-1), [[1, 2, 4]] * 2)


def test_greedy_equals_top_1_and_ignores_the_key(decoder, prompt_batch):
    lm, params = decoder
    prompts = prompt_batch(jax.random.randint(jax.random.key(3), (3, 5), 1, 11))
    greedy = jitted(lm, group_size=1, max_new_tokens=8, temperature=0.0)
    top_1 = jitted(lm, group_size=1, max_new_tokens=8, temperature=1.0, top_k=1)
    first, other = (greedy(params, prompts, jax.random.key(seed)).completion_BT for seed in (0, 1))
    np.testing.assert_array_equal(first, other)
    np.testing.assert_array_equal(first, top_1(params, prompts, jax.random.key(2)).completion_BT)
    assert len(np.unique(np.asarray(first), axis=0)) > 1


def test_other_prompts_and_their_padding_change_nothing(decoder, prompt_batch):
    lm, params = decoder
    ids = jax.random.randint(jax.random.key(3), (3, 5), 1, 11)
    run = jitted(lm, group_size=1, max_new_tokens=8, temperature=0.0)
    together = run(params, prompt_batch(ids, [5, 3, 2]), jax.random.key(0)).completion_BT
    for row, length in enumerate((5, 3, 2)):
        alone = run(params, prompt_batch(ids[row : row + 1, :length]), jax.random.key(0)).completion_BT
        np.testing.assert_array_equal(together[row], alone[0])


def test_steps_and_groups_draw_with_fresh_noise(table_lm, prompt_batch):
    run = jax.jit(functools.partial(generate, table_lm(64), group_size=8, max_new_tokens=8, end_id=-1, pad_id=0))
    tokens = np.asarray(run(jnp.zeros((64, 64)), prompt_batch([[1], [1]]), jax.random.key(0)).completion_BT)
    assert len(np.unique(tokens, axis=0)) == 16 and len(np.unique(tokens, axis=1).T) > 1
    assert all(len(np.unique(row)) > 4 for row in tokens)


def test_another_temperature_compiles_nothing(table_lm, prompt_batch, compiles, chain):
    lm, params, prompts = table_lm(6), chain((1, 2), (2, 1), vocab=6), prompt_batch([[1]])

    @jax.jit
    def run(params, prompts, key, temperature):
        return generate(
            lm, params, prompts, key, group_size=2, max_new_tokens=3, temperature=temperature, end_id=END, pad_id=PAD
        )

    first, second = (jax.random.key(0), jnp.float32(1.0)), (jax.random.key(1), jnp.float32(0.0))
    jax.block_until_ready(run(params, prompts, *first))
    compiles.reset()
    jax.block_until_ready(run(params, prompts, *second))
    assert compiles.count == 0, compiles.names


def test_a_penalty_breaks_a_circle_and_counts_the_prompt(table_lm, prompt_batch):
    """1 -> 2 -> 1 by hand: logit 4 for the next of the circle, 3 for token 4, 2 for 5, 1 for 1 (the prompt's) and 0.

    With penalty 2 a seen token has half of its positive logit: from 1 the 2 (4) is new; from 2 the 1 is of the
    prompt (2) and 4 (3) is drawn; row 4 has 2 for every token but 5, which got 2.5.
    """
    table = np.zeros((6, 6), np.float32)
    table[1, [2, 4]] = 4, 3
    table[2, [1, 4]] = 4, 3
    table[4] = [0, 2, 2, 0, 2, 2.5]
    table[5] = [0, 5, 4, 0, 4, 5.5]  # halves: 2.5, 2, 2, 2.75
    lm, prompts = table_lm(6), prompt_batch([[1]])
    run = functools.partial(jitted, lm, group_size=2, max_new_tokens=5, temperature=0.0)
    free = run()(jnp.asarray(table), prompts, jax.random.key(0))
    np.testing.assert_array_equal(free.completion_BT, [[2, 1, 2, 1, 2]] * 2)
    held = run(repetition_penalty=2.0)(jnp.asarray(table), prompts, jax.random.key(0))
    np.testing.assert_array_equal(held.completion_BT, [[2, 4, 5, 5, 5]] * 2)
    expected = [jax.nn.log_softmax(table[last])[token] for last, token in [(1, 2), (2, 4), (4, 5), (5, 5), (5, 5)]]
    np.testing.assert_allclose(held.logp_BT, [expected] * 2, rtol=1e-5)  # those of the table, not of the penalty


def test_padding_of_a_prompt_is_not_penalized(table_lm, prompt_batch):
    """Padding holds token 0 with logit 1; a seen 0 would have .5, less than the .8 of token 2."""
    table = jnp.zeros((4, 4)).at[1].set(jnp.array([1.0, -9.0, 0.8, -9.0]))
    run = jitted(table_lm(4), group_size=1, max_new_tokens=1, temperature=0.0, repetition_penalty=2.0)
    prompts = prompt_batch([[1, 0], [0, 1]], [1, 2])
    np.testing.assert_array_equal(run(table, prompts, jax.random.key(0)).completion_BT, [[0], [2]])


def test_penalties_off_leave_no_trace_in_the_program(table_lm, prompt_batch):
    def program(**settings):
        run = functools.partial(generate, table_lm(7), group_size=1, max_new_tokens=3, end_id=END, pad_id=PAD)
        return str(jax.make_jaxpr(functools.partial(run, **settings))(*arguments))

    arguments = (jnp.zeros((7, 7)), prompt_batch([[1, 2]]), jax.random.key(0))
    assert program(repetition_penalty=1.0) == program()
    assert "scatter" not in program() and "scatter" in program(repetition_penalty=1.1)  # marks are kept by one
