"""Gemma 3 with pictures: the text decoder of either layout of names, its head, and what is neither text nor vision.

The numbers of the decoder are compared with transformers' in tests/parity (case gemma3_vision).
"""

import json

import jax
import numpy as np
import pytest

from visa_jax.config import UserError
from visa_jax.data.tokenizer import make_testbed_tokenizer
from visa_jax.models import DecoderConfig, load_pretrained, make_decoder, save_pretrained
from visa_jax.models.classifiers import load_classifier, save_classifier, start_classifier
from visa_jax.models.hf import read_decoder_config
from visa_jax.models.weights import open_weights, write_weights

LAYOUTS = {
    "published": {"model.": "language_model.model.", "lm_head.": "language_model.lm_head.", "vision": "vision_tower.x"},
    "transformers": {"model.": "model.language_model.", "lm_head.": "lm_head.", "vision": "model.vision_tower.x"},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A directory of the text decoder alone, with an output of its own."""
    tokenizer = make_testbed_tokenizer()
    config = DecoderConfig(
        **dict(vocab_size=len(tokenizer), width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=24),
        **dict(norm="rms_plus_one", post_norms=True, qk_norm=True, scale_embedding=True, activation="gelu_tanh"),
        **dict(max_length=32, norm_eps=1e-6, window=8, local_layers=(True, False), tie_embeddings=False),
        **dict(local_rope_theta=10_000.0),
    )
    directory = tmp_path_factory.mktemp("text")
    save_pretrained(directory, make_decoder(config)[1](jax.random.key(0)), config, tokenizer, family="gemma3_text")
    return directory


def wrap(text, directory, layout, **more):
    """The same model as a multimodal directory, whose file holds a tensor of vision, and ``more``."""
    names = LAYOUTS[layout]
    directory.mkdir()
    for path in text.glob("tokenizer*"):
        (directory / path.name).write_bytes(path.read_bytes())
    contents = json.loads((text / "config.json").read_text())
    del contents["model_type"], contents["architectures"]
    top = {name: contents.pop(name) for name in list(contents) if name.endswith("token_id")}
    whole = {"model_type": "gemma3", "text_config": contents, "vision_config": {}, **top}
    (directory / "config.json").write_text(json.dumps(whole))
    with open_weights(text) as weights:
        tensors = {}
        for name in weights.names:
            old = "model." if name.startswith("model.") else "lm_head."
            tensors[names[old] + name.removeprefix(old)] = weights.read(name)
    write_weights(directory, ({**tensors, names["vision"]: np.zeros(3, np.float32)} | more).items())
    return directory


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_text_decoder_is_read_and_written_as_such(layout, text, tmp_path, capsys):
    expected, _ = load_pretrained(text)
    capsys.readouterr()
    model, tokenizer = load_pretrained(wrap(text, tmp_path / "whole", layout))
    told = capsys.readouterr().err
    assert told == f"{tmp_path / 'whole'}: the text decoder is read, 1 tensors of vision are not\n"
    assert (model.config, model.end_ids, model.family) == (expected.config, expected.end_ids, "gemma3_text")
    jax.tree.map(np.testing.assert_array_equal, model.params, expected.params)
    save_pretrained(tmp_path / "out", model.params, model.config, tokenizer, family=model.family)
    with open_weights(text) as before, open_weights(tmp_path / "out") as after:
        assert before.names == after.names


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_that_is_neither_text_nor_vision_is_refused(layout, text, tmp_path):
    directory = wrap(text, tmp_path / "whole", layout, **{"audio_tower.x": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="model.safetensors: tensor audio_tower.x has no place in the model of config"):
        load_pretrained(directory)


def test_what_config_json_leaves_unsaid(tmp_path):
    """The published gemma-3-4b: its text_config says nothing of vocabulary, heads and window."""
    text = dict(hidden_size=2560, intermediate_size=10240, num_hidden_layers=34, sliding_window=1024)
    text["rope_scaling"] = dict(rope_type="linear", factor=8.0)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    config = read_decoder_config(tmp_path)
    assert (config.vocab_size, config.heads, config.kv_heads, config.head_dim) == (262208, 8, 4, 256)
    assert (config.max_length, config.window, config.width) == (131072, 1024, 2560)
    assert config.local_layers[:6] == (True,) * 5 + (False,)
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}')
    with pytest.raises(UserError, match="config.json: text_config is missing"):
        read_decoder_config(tmp_path)


@pytest.mark.parametrize("ends", ["x", [1, "x"], [1, -2], 1.5])
def test_end_tokens_that_are_none_are_refused(ends, text, tmp_path):
    directory = wrap(text, tmp_path / "whole", "published")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    with pytest.raises(UserError, match="whole: eos_token_id = .* is no id of a token, nor a list of such$"):
        load_pretrained(directory)


def test_end_tokens_of_a_text_config(text, tmp_path):
    directory = wrap(text, tmp_path / "whole", "published")
    contents = json.loads((directory / "config.json").read_text())
    contents["text_config"]["eos_token_id"] = [contents.pop("eos_token_id"), 7]
    (directory / "config.json").write_text(json.dumps(contents))
    assert load_pretrained(directory)[0].end_ids[1] == 7


def test_a_head_on_the_text_decoder_is_of_its_class(text, tmp_path):
    """Gemma3ForSequenceClassification is transformers' class of models with pictures."""
    headed = start_classifier(text, ("reward",), "regression")
    assert headed.contents["architectures"] == ["Gemma3TextForSequenceClassification"]
    (tmp_path / "config.json").write_text(json.dumps(headed.contents))
    save_classifier(tmp_path / "out", tmp_path, headed.init(jax.random.key(0)), headed.tokenizer)
    assert load_classifier(tmp_path / "out")[0].labels == ("reward",)
