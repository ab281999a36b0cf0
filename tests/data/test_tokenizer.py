"""Tokenizers: round trips, nothing unknown on the testbed, refusal of what does not fit."""

import numpy as np
import pytest

from visa_jax.config import UserError
from visa_jax.data.symbols import SPECIAL_TOKENS, plain_text
from visa_jax.data.template import moc_prompt, visa_prompt
from visa_jax.data.testbed import make_testbed
from visa_jax.data.testbed.corpus import labelled_texts, visa_pairs
from visa_jax.data.testbed.documents import pretraining_documents
from visa_jax.data.testbed.vocabulary import vocabulary
from visa_jax.data.testbed.wishes import NEUTRAL_WISHES, Wishes
from visa_jax.data.tokenizer import (
    decode_batch,
    encode_batch,
    load_tokenizer,
    make_testbed_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

BED = make_testbed(0)


@pytest.fixture(scope="module")
def tokenizer():
    return make_testbed_tokenizer()


def testbed_texts():
    rng = np.random.default_rng(0)
    pairs = visa_pairs(BED, rng, 100)
    texts = [visa_prompt(p.question, p.source, p.target) for p in pairs] + [p.reference for p in pairs]
    texts += [moc_prompt(p.question, [0.37, 0.63]) for p in pairs] + pretraining_documents(BED, rng, 100)
    texts += labelled_texts(BED, rng, 100)[0] + Wishes().draw(rng, 300)[0] + list(NEUTRAL_WISHES)
    texts += [s.sentence for s in BED.wording.statements] + list(Wishes().meanings)
    return texts


testbed_texts.__test__ = False


def test_ids(tokenizer):
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(5)] == ["<pad>", "<bos>", "<eos>", "<unk>", "<sep>"]
    assert len(tokenizer) == len(SPECIAL_TOKENS) + len(vocabulary())
    assert len(set(SPECIAL_TOKENS)) == len(SPECIAL_TOKENS)


def test_round_trip_and_nothing_unknown(tokenizer):
    texts = [text.removeprefix("<bos> ") for text in testbed_texts()]
    ids, mask = encode_batch(tokenizer, texts, 80, end=True)
    assert ids.dtype == np.int32 and mask.dtype == bool
    assert not (ids == tokenizer.unk_token_id).any()
    assert decode_batch(tokenizer, ids) == texts
    np.testing.assert_array_equal(mask.sum(1), [len(text.split()) + 1 for text in texts])  # a word is a token
    assert (ids[~mask] == 0).all() and (ids[mask] != 0).all()


def test_saved_and_loaded(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    texts = testbed_texts()[:50]
    np.testing.assert_array_equal(encode_batch(loaded, texts, 64)[0], encode_batch(tokenizer, texts, 64)[0])
    ids = encode_batch(tokenizer, texts, 64)[0]
    assert decode_batch(loaded, ids) == decode_batch(tokenizer, ids)
    assert (loaded.pad_token, loaded.eos_token, loaded.bos_token) == ("<pad>", "<eos>", "<bos>")


def test_a_persons_spelling(tokenizer):
    ids, mask = encode_batch(tokenizer, ["More daring, less bound to Tradition."], 10)
    assert decode_batch(tokenizer, ids, mask) == ["more daring , less bound to tradition ."]


def test_decode_stops_at_the_end_and_shows_stray_tokens(tokenizer):
    text = "it is <sep> red ."
    ids, mask = encode_batch(tokenizer, [text], 10, end=True)
    ids[0, mask.sum() :] = tokenizer.convert_tokens_to_ids("red")  # what a sampler may leave after the end
    assert decode_batch(tokenizer, ids) == [text]
    assert BED.oracle.read(decode_batch(tokenizer, ids)[0]) is None


def test_decode_stops_at_any_of_several_ends(tokenizer):
    ids, mask = encode_batch(tokenizer, ["it is red . oak", "it is mostly oak ."], 6)
    ends = tuple(tokenizer.convert_tokens_to_ids(["mostly", "."]))
    assert decode_batch(tokenizer, ids, mask, ends) == ["it is red", "it is"]


def test_mask_leaves_out(tokenizer):
    ids, _ = encode_batch(tokenizer, ["it is red ."], 4)
    assert decode_batch(tokenizer, ids, np.array([[True, True, False, True]])) == ["it is ."]


def test_too_long_is_refused(tokenizer):
    assert encode_batch(tokenizer, ["it is red ."], 4)[1].all()
    with pytest.raises(UserError, match="text of 5 tokens is longer than the limit of 4"):
        encode_batch(tokenizer, ["it is red ."], 4, end=True)


def test_empty(tokenizer):
    ids, mask = encode_batch(tokenizer, [""], 3)
    assert not mask.any() and decode_batch(tokenizer, ids) == [""]
    assert encode_batch(tokenizer, [], 3)[0].shape == (0, 3)


def test_special_tokens_cannot_be_smuggled_in(tokenizer):
    ids, _ = encode_batch(tokenizer, [plain_text("red <eos> <security:+1.0>")], 20)
    assert not set(ids[0].tolist()) & {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<security:+1.0>")}


CORPUS = ["The old mill grinds wheat, rye and oats."] * 3 + ["A baker buys the flour."]


def test_byte_level_bpe_knows_every_text(tmp_path):
    trained = train_tokenizer(CORPUS, "bpe", 600)
    texts = ["The old mill", "Émile naïvely said: 你好!", "mill"]
    ids, mask = encode_batch(trained, texts, 60, end=True)
    assert decode_batch(trained, ids) == texts
    word = encode_batch(trained, ["a <sep> mill"], 10)[0][0].tolist()
    assert encode_batch(trained, ["mill"], 10)[0][0, 0] in word  # a word after <sep> is written as everywhere else
    save_tokenizer(trained, tmp_path)
    np.testing.assert_array_equal(encode_batch(load_tokenizer(tmp_path), texts, 60, end=True)[0], ids)


def test_word_level_of_a_users_text():
    trained = train_tokenizer(CORPUS, "word", 200)
    ids, _ = encode_batch(trained, ["the OLD mill , <sep> dragon"], 8)
    assert decode_batch(trained, ids) == ["the old mill , <sep> <unk>"]
    smaller = train_tokenizer(CORPUS, "word", len(SPECIAL_TOKENS) + 4)
    assert len(smaller) == len(SPECIAL_TOKENS) + 4


@pytest.mark.parametrize("kind, size, message", [("char", 999, "kind 'char'"), ("bpe", 300, "vocab_size 300")])
def test_bad_options_are_refused(kind, size, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(CORPUS, kind, size)


def test_missing_or_broken_directory(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer(tmp_path)
