"""Slots and their queue against plain generation, row by row; stop strings and buckets by hand."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from visa_jax.data.tokenizer import before_stop
from visa_jax.evaluation.queue import complete, make_queue, make_stop_fn, stop_length
from visa_jax.evaluation.run import bucket_rows, bucket_width, bucket_widths, make_sampler
from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.rollout import generate
from visa_jax.types import PromptBatch

END, PAD, LENGTH = 3, 0, 12
LENGTHS = [5, 3, 1, 4, 2, 5, 5, 3]


@pytest.fixture(scope="module")
def decoder():
    """(lm, params) of a tiny decoder, sharp enough that greedy texts differ between prompts."""
    config = DecoderConfig(vocab_size=11, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=16)
    lm, init_fn = make_decoder(config)
    return lm, jax.tree.map(lambda leaf: 2 * leaf, jax.jit(init_fn)(jax.random.key(0)))


@pytest.fixture(scope="module")
def prompts():
    ids = np.asarray(jax.random.randint(jax.random.key(3), (8, 6), 1, 11))
    mask = np.arange(6)[None] < np.asarray(LENGTHS)[:, None]
    return PromptBatch(
        prompt_NL=ids,
        prompt_mask_NL=mask,
        condition_NM=np.zeros((8, 1), np.float32),
        context_NS=ids,
        context_mask_NS=mask,
    )


def plain(lm, params, prompts, key, group_size=1, **settings):
    noise_B = jnp.arange(len(prompts.prompt_NL) * group_size)
    run = functools.partial(generate, lm, group_size=group_size, max_new_tokens=LENGTH, end_id=END, pad_id=PAD)
    return jax.jit(functools.partial(run, noise_B=noise_B, **settings))(params, prompts, key)


def assert_same(told, expected):
    np.testing.assert_array_equal(told.completion_BT, expected.completion_BT)
    np.testing.assert_array_equal(told.mask_BT, expected.mask_BT)
    np.testing.assert_allclose(told.logp_BT, expected.logp_BT, atol=1e-4)


@pytest.mark.parametrize(
    ("temperature", "queue", "settings"),
    [
        (0.0, dict(slots=3), {}),
        (1.0, dict(slots=3), {}),
        (1.0, dict(slots=2, group_size=3, widths=(2, 4)), {}),
        (0.7, dict(slots=9), dict(top_k=4, repetition_penalty=1.5)),
        (1.0, dict(slots=3), dict(kv_cache_dtype="int8")),
    ],
    ids=["greedy", "drawn", "groups and buckets", "more slots than prompts", "int8"],
)
def test_a_queue_gives_what_plain_generation_gives(decoder, prompts, temperature, queue, settings):
    lm, params = decoder
    settings = settings | dict(group_size=queue.pop("group_size", 1))
    expected = plain(lm, params, prompts, jax.random.key(4), temperature=temperature, **settings)
    length = np.asarray(expected.mask_BT).sum(axis=1)
    assert len(np.unique(length)) > 2 or temperature == 0  # rows end at different times
    run = make_queue(lm, max_new_tokens=LENGTH, end_id=END, pad_id=PAD, **queue, **settings)
    assert_same(run(params, prompts, jax.random.key(4), temperature), expected)


def test_a_long_row_holds_nobody(table_lm, prompt_batch, chain):
    """Two slots; after 9 come 8 7 6 5 4 3 (the end), so prompts of 9, 5, 5, 5 get 6, 2, 2, 2 tokens.

    The first token of each comes with its prompt. While the long row is fed 5 times, the other slot serves the others:
    one step each, 3 together. Batches of two would take 5 + 1.
    """
    seen = []
    lm = table_lm(10, on_decode=lambda step: seen.append(np.asarray(step).tolist()))
    params = chain(*((k, k - 1) for k in range(4, 10)), vocab=10)
    run = make_queue(lm, slots=2, max_new_tokens=LENGTH, end_id=END, pad_id=PAD)
    told = run(params, prompt_batch([[9], [5], [5], [5]]), jax.random.key(0), 0.0)
    jax.effects_barrier()
    np.testing.assert_array_equal(told.completion_BT[0, :7], [8, 7, 6, 5, 4, END, PAD])
    np.testing.assert_array_equal(told.completion_BT[1:, :3], [[4, END, PAD]] * 3)
    np.testing.assert_array_equal(told.mask_BT.sum(axis=1), [6, 2, 2, 2])
    assert len(seen) == 5
    assert sorted(seen)[:3] == [[0, 0], [1, 0], [2, 0]]  # the second slot begins anew each time


def test_a_row_of_one_token_makes_room_at_once(table_lm, prompt_batch, chain):
    run = make_queue(table_lm(10), slots=1, max_new_tokens=LENGTH, end_id=END, pad_id=PAD)
    told = run(chain((4, END), (5, 4), vocab=10), prompt_batch([[4], [4], [5], [4]]), jax.random.key(0), 0.0)
    np.testing.assert_array_equal(told.completion_BT[:, :3], [[3, 0, 0], [3, 0, 0], [4, 3, 0], [3, 0, 0]])


def test_a_queue_compiles_nothing_for_other_prompts(table_lm, prompt_batch, compiles, chain):
    params = chain(*((k, k - 1) for k in range(4, 10)), vocab=10)
    run = make_queue(table_lm(10), slots=2, max_new_tokens=LENGTH, end_id=END, pad_id=PAD)
    first, second = prompt_batch([[9], [5], [5]]), prompt_batch([[4], [7], [6], [9], [8]])
    run(params, first, jax.random.key(0), 0.0)
    compiles.reset()
    assert run(params, second, jax.random.key(0), 1.0).mask_BT.sum(axis=1).tolist() == [1, 4, 3, 6, 5]
    assert compiles.count == 0, compiles.names


# ---------------------------------------------------------------- stop strings

PIECES = ["", "a", "ab", "!", "bc", "c", "d", "e", "f", "g"]


def read(ids):
    return "".join(PIECES[token] for token in ids)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one, two", [","], "one"),
        ("one, two", ["two", ","], "one"),  # the first in the text, not in the list
        ("one, two", [" two", ", t"], "one"),
        ("one", ["o"], ""),
        ("one", ["oneone", "E"], None),
        ("one", [], None),
    ],
)
def test_a_text_ends_before_the_first_stop_string(text, stop, expected):
    assert before_stop(text, stop) == expected


def test_the_fewest_tokens_that_hold_a_stop_string():
    stop_fn = make_stop_fn(["bb"], read)
    assert stop_length([1, 2, 4, 5, 2, 4], stop_fn) == 3  # a ab bc: the string spans two tokens
    assert stop_length([1, 2, 4, 5, 2, 4], stop_fn, known=2) == 3
    assert stop_length([1, 2, 5], stop_fn) is None and stop_length([], stop_fn) is None


@pytest.mark.parametrize("every", [1, 2, 3, 100])
@pytest.mark.parametrize("slots", [1, 3])
def test_rows_stop_at_their_string_however_often_one_looks(table_lm, prompt_batch, every, slots, chain):
    """9 g f e d c bc: "fed" ends rows of 9 and 8 early; the row of 6 never holds it and goes on to its end."""
    params = chain((9, 8), (8, 7), (7, 6), (6, 5), (5, 4), (4, END), vocab=10)
    settings = dict(slots=slots, max_new_tokens=LENGTH, end_id=END, pad_id=PAD, stop_every=every)
    run = make_queue(table_lm(10), stop=["never", "fed"], read_fn=read, **settings)
    told = run(params, prompt_batch([[9], [6], [9], [8]]), jax.random.key(0), 0.0)
    # from 9: f e d, stop with the third; from 8: e d c bc !; from 6: c bc !
    np.testing.assert_array_equal(
        told.completion_BT[:, :6],
        [[8, 7, 6, PAD, PAD, PAD], [5, 4, END, PAD, PAD, PAD], [8, 7, 6, PAD, PAD, PAD], [7, 6, 5, 4, END, PAD]],
    )
    np.testing.assert_array_equal(told.mask_BT.sum(axis=1), [3, 3, 3, 5])
    assert (told.logp_BT[~told.mask_BT] == 0).all()


def test_stopped_rows_cost_no_more_steps(table_lm, prompt_batch, chain):
    seen = []
    lm = table_lm(10, on_decode=lambda step: seen.append(np.asarray(step).tolist()))
    settings = dict(slots=1, max_new_tokens=500, end_id=END, pad_id=PAD, stop_every=4)
    run = make_queue(lm, stop=["aaa"], read_fn=read, **settings)
    told = run(chain((1, 1), vocab=10), prompt_batch([[1]]), jax.random.key(0), 0.0)
    jax.effects_barrier()
    assert told.mask_BT.sum() == 3 and len(seen) == 4


def test_completing_one_prompt_says_why_it_ended(table_lm, chain):
    params, lm = chain((9, 8), (8, 7), (7, 6), (6, 5), (5, 4), (4, END), vocab=10), table_lm(10)

    def told(length=LENGTH, stop=()):
        settings = dict(max_new_tokens=length, end_id=END, pad_id=PAD, stop=stop, read_fn=read)
        return complete(lm, params, [1, 9], jax.random.key(0), **settings)

    assert told() == ([8, 7, 6, 5, 4], "end")
    assert told(3) == ([8, 7, 6], "length")
    assert told(stop=["cb", "no"]) == ([8, 7, 6, 5, 4], "stop")  # c and the first half of bc
    assert told(stop=["no"]) == ([8, 7, 6, 5, 4], "end")


# ---------------------------------------------------------------- buckets


def test_buckets_by_hand():
    assert bucket_widths(100) == (16, 32, 64, 100) and bucket_widths(64) == (16, 32, 64) and bucket_widths(9) == (9,)
    mask = np.arange(6)[None] < np.asarray(LENGTHS)[:, None]
    assert [bucket_width(row[None], (2, 4)) for row in mask] == [6, 4, 2, 4, 2, 6, 6, 4]
    assert bucket_width(mask[1:4], (2, 4)) == 4 and bucket_width(mask, ()) == 6
    assert bucket_width(mask[1:4, ::-1], (2, 4)) == 6  # padded on the left: nothing can be cut
    assert bucket_width(np.zeros((1, 6), bool), (2, 4)) == 2 and bucket_width(mask[:1, :5], (5, 99)) == 5
    buckets = {width: rows.tolist() for width, rows in bucket_rows(mask, (2, 4))}
    assert buckets == {2: [2, 4], 4: [1, 3, 7], 6: [0, 5, 6]}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_sampler_writes_the_same_in_buckets(decoder, prompts, temperature, compiles):
    """Texts in the order asked, whatever bucket they were drawn in; a program per bucket in use, then none."""
    lm, params = decoder
    names = {piece: token for token, piece in enumerate(["<pad>", "<bos>", "<eos>", *"cdefghij"])}
    backend = Tokenizer(models.WordLevel(names, unk_token="c"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    source = SimpleNamespace(tokenizer=tokenizer)
    choices = dict(max_new_tokens=8, end_id=tokenizer.eos_token_id, batch_size=3)
    make = functools.partial(make_sampler, lm, source, **choices)
    expected = make()(params, prompts, jax.random.key(5), temperature)
    sample = make(widths=(2, 4))
    compiles.reset()
    told = sample(params, prompts, jax.random.key(5), temperature)
    assert sum("draw" in name for name in compiles.names) == 3, compiles.names
    assert told.texts == expected.texts and len(set(told.texts)) > 3
    np.testing.assert_array_equal(told.token_BT, expected.token_BT)
    np.testing.assert_array_equal(told.drawn_BT, expected.drawn_BT)
    compiles.reset()
    shuffled = jax.tree.map(lambda x: x[::-1], prompts)
    again = sample(params, shuffled, jax.random.key(5), temperature, noise_N=np.arange(8)[::-1])
    assert again.texts == told.texts[::-1] and compiles.count == 0
