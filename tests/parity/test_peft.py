"""Adapter directories: back and forth bitwise, the sum written out in numpy, and PEFT itself where torch is there."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.config import UserError
from visa_jax.models import make_decoder
from visa_jax.models.hf import load_params, read_decoder_config
from visa_jax.models.lora import LoraConfig, attach, init_adapters, merge_adapters
from visa_jax.models.peft import load_adapters, save_adapters
from visa_jax.models.weights import open_file, open_weights, read_json, write_file, write_json, write_weights

pytestmark = pytest.mark.usefixtures("quick_compiles")
PREFIX = "base_model.model.model.layers"
CASES = {  # family -> modules that PEFT finds by their names, and the pattern that names the same
    "llama": (
        "attention/(query|value|out)|mlp/.*",
        ["down_proj", "gate_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
    ),
    "gemma2": ("attention/.*|mlp/down", ["down_proj", "k_proj", "o_proj", "q_proj", "v_proj"]),
    "gpt2": ("attention/out|mlp/(up|down)", ["attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),
}
there = all(importlib.util.find_spec(name) for name in ("torch", "peft"))


@pytest.fixture(params=CASES)
def case(request, directory_of, tmp_path):
    """(family, base directory, adapter directory, config, base params, adapters away from 0, LoraConfig)."""
    base = directory_of(request.param)
    config, lora = read_decoder_config(base), LoraConfig(rank=3, alpha=6.0, pattern=CASES[request.param][0])
    params, draw = load_params(base, config), np.random.default_rng(1).normal
    shapes = jax.eval_shape(lambda: init_adapters(jax.random.key(0), params, lora))
    adapters = jax.tree.map(lambda leaf: jnp.asarray(draw(size=leaf.shape) * 0.2, jnp.float32), shapes)
    save_adapters(tmp_path / "adapter", adapters, lora, config, base=str(base))
    return request.param, base, tmp_path / "adapter", config, params, adapters, lora


def test_back_and_forth(case):
    family, base, directory, config, params, adapters, lora = case
    again, read = load_adapters(directory, config)
    jax.tree.map(np.testing.assert_array_equal, again, adapters)
    assert (read.rank, read.alpha) == (lora.rank, lora.alpha)
    fresh = init_adapters(jax.random.key(0), params, read)
    assert jax.tree.structure(fresh) == jax.tree.structure(adapters)  # its pattern names the same kernels
    contents = read_json(directory / "adapter_config.json")
    assert contents["target_modules"] == CASES[family][1] and contents["peft_type"] == "LORA"
    assert (contents["r"], contents["lora_alpha"], contents["base_model_name_or_path"]) == (3, 6.0, str(base))
    assert contents["fan_in_fan_out"] == (family == "gpt2")


def test_the_sum_written_out(case, tmp_path):
    """Each tensor of the base plus alpha / rank · B A of the file (GPT-2 stores kernels turned) is the merged model."""
    family, base, directory, config, params, adapters, lora = case
    with open_weights(base) as weights, open_file(directory / "adapter_model.safetensors") as low:
        tensors, adapted = {name: weights.read(name) for name in weights.names}, 0
        for name in tensors:
            letters = [f"base_model.model.{name.removesuffix('.weight')}.lora_{letter}.weight" for letter in "AB"]
            if letters[0] in low:
                a, b = (low.read(letter).astype(np.float64) for letter in letters)
                added = 6.0 / 3 * b @ a
                tensors[name] = (tensors[name] + (added.T if family == "gpt2" else added)).astype("f4")
                adapted += 1
        assert adapted == len(low.names) / 2 == config.layers * len(CASES[family][1])
    write_weights(tmp_path, tensors.items())
    write_json(tmp_path / "config.json", read_json(base / "config.json"))
    merged = merge_adapters(params, adapters, lora)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), merged, load_params(tmp_path, config))


@pytest.mark.hf
@pytest.mark.filterwarnings("ignore:.*:FutureWarning:transformers")  # PEFT asks transformers for a name of the past
@pytest.mark.skipif(not there, reason="PyTorch and PEFT are not installed")
def test_live(case, references, tmp_path):
    """PEFT reads our directory and computes our logits; we read what it writes, bitwise."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig

    _, base, directory, config, params, adapters, lora = case
    model, _ = references.build(AutoConfig.for_model(**json.loads((base / "config.json").read_text())))
    peft = PeftModel.from_pretrained(model, str(directory)).eval()
    tokens = references.draw_tokens(config.vocab_size)
    with torch.no_grad():
        theirs = peft(torch.from_numpy(tokens)).logits.numpy()
        with peft.disable_adapter():
            off = peft(torch.from_numpy(tokens)).logits.numpy()
    lm, _ = make_decoder(config)
    ids, mask = jnp.asarray(tokens, jnp.int32), jnp.ones(tokens.shape, bool)
    ours = [lm.logits(p, lm.forward(p, ids, mask)) for p in (attach(params, adapters, lora), params)]
    np.testing.assert_allclose(ours[0], theirs, atol=1e-4)
    np.testing.assert_allclose(ours[1], off, atol=1e-4)
    assert np.abs(theirs - off).max() > 0.05
    peft.save_pretrained(str(tmp_path / "theirs"))
    again, read = load_adapters(tmp_path / "theirs", config)
    jax.tree.map(np.testing.assert_array_equal, again, adapters)
    assert read.scale == lora.scale


@pytest.mark.parametrize("case", ["llama"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"bias": "all"}, "bias = 'all' is not supported"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern = .* is not supported"),
        ({"r": 4}, r"lora_A.weight has shape \(3, 64\), .* wants \(4, 64\)"),
        ({"r": None}, "r = None and lora_alpha = 6.0 must be positive numbers"),
    ],
)
def test_a_config_that_is_refused(case, changes, message):
    path = case[2] / "adapter_config.json"
    write_json(path, read_json(path) | changes)
    with pytest.raises(UserError, match=message):
        load_adapters(case[2], case[3])


@pytest.mark.parametrize("case", ["llama"], indirect=True)
def test_tensors_that_are_refused(case):
    _, _, directory, config, *_ = case
    path = directory / "adapter_model.safetensors"
    with open_file(path) as weights:
        tensors = {name: weights.read(name) for name in weights.names}
    one = f"{PREFIX}.1.mlp.up_proj.lora_B.weight"
    write_file(path, {name: tensor for name, tensor in tensors.items() if name != one})
    with pytest.raises(UserError, match=f"has no tensor {one}"):
        load_adapters(directory, config)
    write_file(path, tensors | {f"{PREFIX}.2.mlp.up_proj.lora_B.weight": tensors[one]})
    with pytest.raises(UserError, match="layers.2.mlp.up_proj.lora_B.weight has no place"):
        load_adapters(directory, config)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="cut off"):
        load_adapters(directory, config)


@pytest.mark.parametrize("case", ["gpt2"], indirect=True)
def test_a_part_of_a_fused_tensor_has_no_place(case, tmp_path):
    _, _, _, config, params, _, _ = case
    lora = LoraConfig(rank=2, pattern="attention/query")
    with pytest.raises(UserError, match="no place for an adapter of layers/attention/query of a gpt2"):
        save_adapters(tmp_path / "new", init_adapters(jax.random.key(0), params, lora), lora, config)
    assert not (tmp_path / "new").exists()
