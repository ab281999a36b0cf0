"""Directories in and out: published greedy texts byte for byte, bitwise round trips, one-line errors."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from visa_jax.config import UserError
from visa_jax.models import DecoderConfig, load_pretrained, make_decoder, save_pretrained
from visa_jax.models.hf import load_params, load_tokenizer, read_decoder_config
from visa_jax.rollout import generate
from visa_jax.types import PromptBatch


@pytest.fixture(scope="module")
def stories(shared):
    directory = shared / "data" / "stories260k"
    if not directory.is_dir():
        pytest.skip(f"no weights: {directory} is not there")
    return directory


def texts_of(stories, model, tokenizer):
    """Greedy continuations of the published prompts, and what was published."""
    published = [row for row in json.loads((stories / "published_outputs.json").read_text()) if row["temperature"] == 0]
    ids = [tokenizer(row["prompt"])["input_ids"] for row in published]
    width = max(map(len, ids))
    prompt = jnp.asarray([row + [0] * (width - len(row)) for row in ids])
    mask = jnp.arange(width)[None] < jnp.asarray([len(row) for row in ids])[:, None]
    batch = PromptBatch(
        prompt_NL=prompt, prompt_mask_NL=mask, condition_NM=prompt, context_NS=prompt, context_mask_NS=mask
    )
    settings = dict(group_size=1, max_new_tokens=256, temperature=0.0, end_id=model.end_ids, pad_id=model.pad_id)
    run = jax.jit(functools.partial(generate, model.lm, **settings))
    tokens = np.asarray(run(model.params, batch, jax.random.key(0)).completion_BT)
    # "steps" counts every piece after <s>, the prompt's own included
    whole = [ids[i] + tokens[i, : row["steps"] - len(ids[i]) + 1].tolist() for i, row in enumerate(published)]
    return [tokenizer.decode(row, skip_special_tokens=True) for row in whole], [row["text"] for row in published]


def test_published_greedy_texts_come_out_byte_for_byte(stories):
    got, published = texts_of(stories, *load_pretrained(stories, scan_layers=False))
    assert len(published) == 3 and got == published


def test_a_real_model_goes_round_bitwise(stories, tmp_path):
    model, tokenizer = load_pretrained(stories)
    save_pretrained(tmp_path, model.params, model.config, tokenizer)
    before, after = load_file(stories / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    again, tokenizer_again = load_pretrained(tmp_path)
    assert again.config == model.config
    assert tokenizer_again("Zoo was")["input_ids"] == tokenizer("Zoo was")["input_ids"]


CHOICES = {
    "llama": dict(tie_embeddings=False),
    "llama_bias": dict(bias=True, out_bias=True),
    "qwen2": dict(bias=True, rope_theta=1e6),
    "qwen3": dict(qk_norm=True, norm_eps=1e-6),
}


@pytest.mark.parametrize("name", CHOICES)
def test_every_family_goes_round_bitwise(tiny, build, tmp_path, name):
    config = tiny(**CHOICES[name])
    _, params = build(config)
    save_pretrained(tmp_path, params, config)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == name.partition("_")[0]
    assert read_decoder_config(tmp_path) == config
    loaded = load_params(tmp_path, config)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), params, loaded)
    assert all(jax.tree.leaves(same)), same


def test_layout_is_that_of_torch_linear_layers(tiny, build, tmp_path):
    """q_proj.weight @ x, heads one after the other, is our query; o_proj.weight @ joined heads is our output."""
    config = tiny()
    _, params = build(config)
    save_pretrained(tmp_path, params, config)
    written, layer = load_file(tmp_path / "model.safetensors"), 1
    attention = jax.tree.map(lambda leaf: np.asarray(leaf[layer]), params["layers"]["attention"])
    x = np.random.default_rng(0).normal(size=16).astype(np.float32)
    query = (written[f"model.layers.{layer}.self_attn.q_proj.weight"] @ x).reshape(4, 8)
    np.testing.assert_allclose(query, np.einsum("d,dqc->qc", x, attention["query"]["kernel"]), atol=1e-5)
    out = written[f"model.layers.{layer}.self_attn.o_proj.weight"] @ query.ravel()
    np.testing.assert_allclose(out, np.einsum("qc,qcd->d", query, attention["out"]["kernel"]), atol=1e-4)


def test_shards_and_bfloat16_are_read(tiny, build, tmp_path):
    config = tiny()
    _, params = build(config)
    save_pretrained(tmp_path, params, config)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for shard, held in shards.items():
        save_file({name: tensors[name].astype(jnp.bfloat16) for name in held}, tmp_path / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    loaded = load_params(tmp_path, config)
    for narrow, wide in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert narrow.dtype == jnp.float32
        np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.fixture
def saved(tiny, tmp_path):
    """A saved tiny model without a tokenizer, and how to edit its config.json."""
    config = tiny()
    shapes = jax.eval_shape(make_decoder(config)[1], jax.random.key(0))
    save_pretrained(tmp_path, jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes), config)

    def edit(**changes):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return tmp_path, edit


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(model_type="mamba"), "model_type 'mamba'"),
        (dict(rope_parameters={"rope_type": "yarn"}), "rope_scaling"),
        (dict(rope_parameters={"rope_type": "llama3"}), "rope_scaling = .* has no factor"),
        (dict(rope_parameters={"rope_type": "linear", "factor": -1.0}), "rope_scaling.factor"),
        (dict(partial_rotary_factor=0.5), "partial_rotary_factor = 0.5"),
        (dict(quantization_config={"bits": 4}), "quantization_config"),
        (dict(hidden_act="gelu"), "hidden_act"),
        (dict(num_key_value_heads=3), "kv_heads"),
        (dict(num_attention_heads=0), "heads: must be positive"),
        (dict(hidden_size="16"), "config.json: a field is of the wrong type"),
        (dict(intermediate_size=25), r"mlp.*_proj.weight has shape \(.*24.*\), config.json wants \(.*25.*\)"),
        (dict(num_hidden_layers=3), "has no tensor model.layers.2"),
        (dict(num_hidden_layers=1), "tensor model.layers.1.* has no place"),
        (dict(attention_bias=True), "bias"),
        (dict(vocab_size=24), r"embed_tokens.weight has shape \(23, 16\), config.json wants \(24, 16\)"),
        (dict(model_type="mistral", sliding_window=-3), "window"),
        (dict(model_type="qwen3"), "k_norm"),
        (dict(model_type="gemma2"), "has no tensor"),
    ],
)
def test_what_the_decoder_cannot_be_is_refused_by_name(saved, changes, named, no_device):
    directory, edit = saved
    edit(**changes)
    with pytest.raises(UserError, match=named) as caught:
        load_pretrained(directory)
    assert "\n" not in str(caught.value) and str(directory) in str(caught.value)


@pytest.fixture
def no_device(monkeypatch):
    """Nothing may be put on a device."""

    def refuse(*args, **settings):
        raise AssertionError("something was put on a device")

    monkeypatch.setattr(jax, "device_put", refuse)


def test_bad_shards_are_named_before_the_device_is_touched(tiny, build, tmp_path, no_device):
    _, params = build(tiny())
    save_pretrained(tmp_path, params, tiny(), max_shard_bytes=4000)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    held = shards[2].read_bytes()
    assert len(shards) > 3
    shards[2].write_bytes(held[:-1])
    with pytest.raises(UserError, match=f"{shards[2].name}: cut off: tensor model.* ends at byte"):
        load_pretrained(tmp_path)
    shards[2].unlink()
    with pytest.raises(UserError, match=f"{shards[2].name}: no such file, .* wants tensor model"):
        load_pretrained(tmp_path)


def test_a_tokenizer_larger_than_the_embedding_is_refused(stories, tmp_path, no_device, tiny):
    config = tiny(vocab_size=500)
    shapes = jax.eval_shape(make_decoder(config)[1], jax.random.key(0))
    save_pretrained(tmp_path, jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes), config)
    shutil.copy(stories / "tokenizer.json", tmp_path)
    with pytest.raises(UserError, match="tokenizer.json: token id 511 lies beyond the embedding of 500 rows"):
        load_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": 3')
    with pytest.raises(UserError, match="tokenizer.json: damaged tokenizer") as caught:
        load_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_files_of_the_bare_model_with_old_buffers_are_read(tiny, build, tmp_path):
    """GPT-2's published file: no prefix, and masks kept as tensors; heads for other tasks beside a model's tensors."""
    config = tiny(
        positions="learned",
        norm="layer",
        gated=False,
        activation="gelu_tanh",
        bias=True,
        out_bias=True,
        mlp_bias=True,
        kv_heads=4,
        head_dim=4,
    )
    _, params = build(config)
    save_pretrained(tmp_path, params, config)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "gpt2"
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare | {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}, tmp_path / "model.safetensors")
    loaded = load_params(tmp_path, config)
    save_file(tensors | {"score.weight": np.ones((1, 16), np.float32)}, tmp_path / "model.safetensors")
    again = load_params(tmp_path, config)
    for one, other, given in zip(*map(jax.tree.leaves, (loaded, again, params)), strict=True):
        np.testing.assert_array_equal(one, given)
        np.testing.assert_array_equal(other, given)
    save_file(tensors | {"transformer.h.2.ln_1.bias": np.ones(16, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="tensor transformer.h.2.ln_1.bias has no place"):
        load_params(tmp_path, config)


def test_parameters_come_onto_the_shardings_asked_for(tiny, build, tmp_path):
    """Layers over one axis of a mesh, heads or inputs over the other: the same numbers, no device with all of them."""
    config = tiny()
    _, params = build(config)
    save_pretrained(tmp_path, params, config)
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = {"query": "x,,y,", "out": "x,y,,", "down": "x,y,", "up": "x,,y", "embedding": ",y"}

    def sharding_fn(path):
        spec = next((specs[part] for part in path if part in specs), "x" if path[0] == "layers" else "")
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*(axis or None for axis in spec.split(","))))

    loaded = load_params(tmp_path, config, sharding_fn=sharding_fn)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    query = loaded["layers"]["attention"]["query"]["kernel"]
    assert query.sharding == sharding_fn(("layers", "query")) and query.addressable_shards[0].data.shape == (
        1,
        16,
        2,
        8,
    )


def test_several_end_ids_and_the_chat_template_go_out(stories, tmp_path):
    model, tokenizer = load_pretrained(stories)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    settings = dict(dtype="bfloat16", end_ids=model.end_ids, pad_id=5)
    save_pretrained(tmp_path, model.params, model.config, tokenizer, **settings)
    told = json.loads((tmp_path / "generation_config.json").read_text())
    assert told == {"bos_token_id": 1, "eos_token_id": [1, 2], "pad_token_id": 5}
    again, its = load_pretrained(tmp_path)
    assert (again.end_ids, again.pad_id, its.chat_template) == ((1, 2), 5, "{{ messages[0]['content'] }}")
    rounded = model.params["embedding"].astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(again.params["embedding"], rounded)


LOAD_AND_MEASURE = """
import sys, jax
from visa_jax.models.hf import load_params, read_decoder_config
def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
config = read_decoder_config(sys.argv[1])
jax.numpy.zeros(3).block_until_ready()
before = kib("VmRSS")
params = load_params(sys.argv[1], config)
jax.block_until_ready(params)
size = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 1024
print(int(kib("VmHWM") - before - size))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's account of memory")
def test_a_tensor_at_a_time_is_in_host_memory(tmp_path, root):
    """Beside the parameters themselves (on CPU host memory, too): 1.2 tensors and a stack of layers being joined."""
    config = DecoderConfig(vocab_size=48_000, width=512, layers=12, heads=8, kv_heads=8, head_dim=64, mlp_width=2048)
    shapes = jax.eval_shape(make_decoder(config)[1], jax.random.key(0))
    # arrays that take no memory here
    save_pretrained(tmp_path, jax.tree.map(lambda x: np.broadcast_to(np.float32(1), x.shape), shapes), config)
    largest, stack, total = 48_000 * 512 * 4, 12 * 512 * 2048 * 4, sum(4 * x.size for x in jax.tree.leaves(shapes))
    command = [sys.executable, "-c", LOAD_AND_MEASURE, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    beside = 1024 * int(done.stdout)
    # the last: compiled programs and what the allocator keeps (10 MiB over 32 in one run of the whole gate)
    allowed = 1.2 * largest + stack + 64 * 2**20
    assert allowed < 0.8 * total  # so that a second model would be seen
    assert 0 < beside < allowed, (beside, allowed, total)


def test_missing_and_damaged_files_are_named(saved):
    directory, _ = saved
    with pytest.raises(UserError, match="tokenizer.json"):
        load_pretrained(directory)
    (directory / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="model.safetensors: damaged or cut off"):
        load_pretrained(directory)
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors: no such file"):
        load_pretrained(directory)
    (directory / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json: not JSON"):
        load_pretrained(directory)
    shutil.rmtree(directory)
    with pytest.raises(UserError, match="no such directory"):
        load_pretrained(directory)


def test_a_choice_of_no_family_is_not_saved(tiny, tmp_path):
    with pytest.raises(UserError, match="family"):
        save_pretrained(tmp_path / "new", {}, tiny(bias=True, qk_norm=True))
    with pytest.raises(UserError, match="causal"):
        save_pretrained(tmp_path / "new", {}, tiny(causal=False))
    with pytest.raises(UserError, match="condition = 2"):
        save_pretrained(tmp_path / "new", {}, tiny(condition=2))
    assert not (tmp_path / "new").exists()


def test_a_special_token_may_lie_beyond_the_embedding(stories, tmp_path):
    """Gemma 3's text models have a token of pictures in their tokenizer and no row for it."""
    shutil.copy(stories / "tokenizer.json", tmp_path)
    contents = json.loads((tmp_path / "tokenizer.json").read_text())
    token = {"id": 512, "content": "<image>", "single_word": False, "lstrip": False, "rstrip": False}
    contents["added_tokens"].append(token | {"normalized": False, "special": True})
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    assert load_tokenizer(tmp_path, 512)("<image>", add_special_tokens=False)["input_ids"] == [512]
    contents["added_tokens"][-1]["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises(UserError, match="token id 512 lies beyond the embedding of 512 rows"):
        load_tokenizer(tmp_path, 512)


def test_a_vocabulary_of_words_is_a_tokenizer_too(tmp_path):
    """Old directories of BERT hold vocab.txt alone."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="no tokenizer.json .nor tokenizer.model, vocab.json, vocab.txt."):
        load_tokenizer(tmp_path, 9)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "it", "is", "red"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    assert load_tokenizer(tmp_path, 9)("it is red")["input_ids"] == [2, 5, 6, 7, 3]
