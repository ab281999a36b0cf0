"""Directories of classifiers as rewards open them: against stored values of transformers on PyTorch, and live."""

import importlib.util

import jax
import numpy as np
import pytest

from visa_jax.cli.rewards import open_analyzer, open_detector, open_reward
from visa_jax.config import UserError
from visa_jax.models.classifiers import load_classifier
from visa_jax.types import VALUES

pytestmark = pytest.mark.usefixtures("quick_compiles")

WORDS = tuple("abcdefghijklmnopqrstuvwxyz") + (".", "!", ",")


@pytest.mark.parametrize("name", ["bert", "distilbert", "deberta_v3", "gpt2", "llama"])
def test_logits_of_stored_classifiers(name, directory_of, encoders_stored, references, encoder_references, published):
    directory = directory_of(name, stored=encoders_stored)
    published.make_tokenizer(WORDS).save_pretrained(str(directory))
    model, _ = load_classifier(directory)
    values, tokens = encoders_stored(name)[2], references.draw_tokens(48)
    tokens, mask = np.where(tokens == 1, 2, tokens).astype(np.int32), np.ones(tokens.shape, bool)
    types = encoder_references.draw_types(name, tokens.shape[1]).astype(np.int32)
    classify = jax.jit(model.classify)
    np.testing.assert_allclose(classify(model.params, tokens, mask, types), values["logits"], atol=1e-4)
    mask[1, -encoder_references.PADDED :] = False
    np.testing.assert_allclose(classify(model.params, tokens, mask, types), values["padded"], atol=1e-4)
    assert model.labels == ("LABEL_0", "LABEL_1", "LABEL_2") and (model.embed is None) == (name in ("gpt2", "llama"))


def test_decoders_that_are_no_classifiers_are_refused(directory_of, stored, encoders_stored, published):
    directory = directory_of("llama", stored=stored)
    published.make_tokenizer(WORDS).save_pretrained(str(directory))
    with pytest.raises(UserError, match="config.json: architecture 'LlamaForCausalLM' has no classes"):
        load_classifier(directory)
    directory = directory_of("llama", stored=encoders_stored)
    published.change_config(directory, id2label={str(i): str(i) for i in range(4)})
    with pytest.raises(UserError, match="score.weight.*3.*4"):
        load_classifier(directory)


CONFIGS = {
    "bert": ("BertConfig", {}),
    "deberta": (
        "DebertaV2Config",
        dict(
            relative_attention=True,
            position_buckets=8,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
            type_vocab_size=0,
            pooler_hidden_size=32,
        ),
    ),
    "gpt2": ("GPT2Config", dict(n_embd=32, n_layer=2, n_head=4, n_positions=40, pad_token_id=0)),
}
SIZES = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=40,
    initializer_range=0.5,
)


@pytest.mark.hf
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("name", CONFIGS)
def test_live(name, published, tmp_path):
    """Texts through transformers' tokenizer call, model and softmax: NLI with windows, values, a reward of pairs."""
    import torch
    import transformers

    kind, changes = CONFIGS[name]
    tokenizer = published.make_tokenizer(WORDS)
    sizes = changes if name == "gpt2" else SIZES | changes
    rng = np.random.default_rng(0)
    sources, texts = ([" ".join(rng.choice(WORDS[:26], size)) + " ." for size in rng.integers(3, 12, 5)] for _ in "ab")
    texts[0] = "a b . c d !"
    sources[1] = " ".join(rng.choice(WORDS[:26], 60)) + " ."  # beyond the window of 40

    def make(labels, **more):
        named = dict(id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
        config = getattr(transformers, kind)(vocab_size=len(tokenizer), **sizes, **named, **more)
        torch.manual_seed(len(labels))
        model = transformers.AutoModelForSequenceClassification.from_config(config).float().eval()
        directory = tmp_path / str(len(labels))
        model.save_pretrained(directory)
        tokenizer.save_pretrained(str(directory))
        return directory, model

    def logits(model, *sides, **choices):
        given = tokenizer(*sides, max_length=40, return_tensors="pt", padding=True, **choices)
        known = ("input_ids", "attention_mask") + (("token_type_ids",) if name == "bert" else ())
        with torch.no_grad():
            return model(**{field: given[field] for field in known}).logits.numpy()

    directory, model = make(("contradiction", "entailment", "neutral"))
    forward, backward = open_analyzer(str(directory), "field", consistency="nli")(sources, texts)
    windows = dict(truncation="only_first", stride=5, return_overflowing_tokens=True)
    for i, (source, text) in enumerate(zip(sources, texts, strict=True)):
        for found, premise, hypothesis in ((forward[i], source, text), (backward[i], text, source)):
            each = []
            for sentence in ("a b .", "c d !") if hypothesis == "a b . c d !" else (hypothesis,):
                sentence = " ".join(sentence.split()[:19])  # below half of the window: what a hypothesis keeps
                out = logits(model, [premise], [sentence], **windows)
                each.append((np.exp(out) / np.exp(out).sum(axis=1, keepdims=True))[:, 1].max())
            np.testing.assert_allclose(found, np.mean(each), atol=1e-4)

    directory, model = make(VALUES, problem_type="multi_label_classification")
    expected = 1 / (1 + np.exp(-logits(model, sources, truncation=True)))
    np.testing.assert_allclose(open_detector(str(directory), "field")(sources), expected, atol=1e-4)

    directory, model = make(("LABEL_0",))
    reward = open_reward(str(directory), "field", inputs="pair", label="", score="logit")
    expected = logits(model, sources[2:], texts[2:], truncation=True)[:, 0]
    np.testing.assert_allclose(reward(sources[2:], texts[2:]), expected, atol=1e-4)
