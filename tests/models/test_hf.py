"""Directories in and out: published greedy texts byte for byte, bitwise round trips, one-line errors."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from visa_jax.config import UserError
from visa_jax.models import load_pretrained, make_decoder, save_pretrained
from visa_jax.models.hf import load_params, read_decoder_config
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
        (dict(rope_parameters={"rope_type": "llama3"}), "rope_scaling"),
        (dict(hidden_act="gelu"), "hidden_act"),
        (dict(num_key_value_heads=3), "kv_heads"),
        (dict(intermediate_size=25), "mlp.down_proj.weight"),
        (dict(num_hidden_layers=3), "model.layers.2"),
        (dict(attention_bias=True), "bias"),
    ],
)
def test_what_the_decoder_cannot_be_is_refused_by_name(saved, changes, named):
    directory, edit = saved
    edit(**changes)
    with pytest.raises(UserError, match=named) as caught:
        load_pretrained(directory)
    assert "\n" not in str(caught.value) and str(directory) in str(caught.value)


def test_missing_and_damaged_files_are_named(saved):
    directory, _ = saved
    with pytest.raises(UserError, match="tokenizer.json"):
        load_pretrained(directory)
    (directory / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="model.safetensors: damaged"):
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
