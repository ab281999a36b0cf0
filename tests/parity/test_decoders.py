"""Every family of decoders against transformers on PyTorch: stored values always, live where torch is installed."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from visa_jax.models import make_decoder
from visa_jax.models.families import FAMILIES, VISION
from visa_jax.models.hf import fit_weights, load_params, read_decoder_config, read_family, save_pretrained
from visa_jax.models.layout import stored_tensors
from visa_jax.models.weights import open_weights
from visa_jax.rollout import generate
from visa_jax.types import PromptBatch

CASES = (
    "llama",
    "llama_llama3",
    "llama_linear",
    "mistral",
    "qwen2",
    "qwen2_window",
    "qwen3",
    "gemma2",
    "gemma3",
    "gemma3_vision",
    "gpt2",
)
pytestmark = pytest.mark.usefixtures("quick_compiles")
torch_there = importlib.util.find_spec("torch") is not None


class Case:
    """One family's model, read from a directory, and what transformers computed with it."""

    def __init__(self, name, directory, values, references):
        self.name, self.directory, self.values, self.references = name, directory, values, references
        self.config = read_decoder_config(directory)
        self.params = load_params(directory, self.config)
        self.tokens = jnp.asarray(references.draw_tokens(self.config.vocab_size), jnp.int32)
        self.mask = jnp.ones(self.tokens.shape, bool)

    def lm(self, **changes):
        return make_decoder(dataclasses.replace(self.config, **changes))[0]


@pytest.fixture(scope="module", params=CASES)
def case(request, directory_of, stored, references):
    return Case(request.param, directory_of(request.param), stored(request.param)[2], references)


def test_the_cases_are_those_of_the_script(references):
    assert tuple(references.CASES) == CASES


def test_each_layer(case):
    """The final norm of what k layers give, 1e-5: with errors of all layers before, so stricter than one by one."""
    for layers in range(1, case.config.layers + 1):
        params = case.params | {"layers": jax.tree.map(lambda leaf, n=layers: leaf[:n], case.params["layers"])}
        lm = case.lm(layers=layers, local_layers=case.config.local_layers[:layers])
        hidden = jax.jit(lm.forward)(params, case.tokens, case.mask)
        np.testing.assert_allclose(hidden[1, -4:], case.values["hidden"][layers - 1], atol=1e-5, err_msg=str(layers))


@pytest.mark.parametrize("scan_layers", [True, False])
def test_logits_with_and_without_padding(case, scan_layers):
    lm = case.lm(scan_layers=scan_layers)
    logits_fn = jax.jit(lambda params, ids, mask: lm.logits(params, lm.forward(params, ids, mask)))
    logits = logits_fn(case.params, case.tokens, case.mask)
    np.testing.assert_allclose(logits[:, ::3], case.values["logits"], atol=1e-4)
    padded, mask = case.tokens.at[1, :5].set(0), case.mask.at[1, :5].set(False)
    np.testing.assert_allclose(logits_fn(case.params, padded, mask)[:, -3:], case.values["left_padded"], atol=1e-4)
    alone = logits_fn(case.params, case.tokens[1:, 5:], case.mask[1:, 5:])
    np.testing.assert_allclose(alone[:, -3:], case.values["left_padded"][1:], atol=1e-4)


def test_gradients_of_log_probabilities(case):
    """Of every tensor the gradient's product with a random direction and its norm, within 1e-4 of the norm."""
    lm = case.lm()

    def logp(params):
        logits_BTV = lm.logits(params, lm.forward(params, case.tokens, case.mask))[:, :-1]
        logps_BTV = jax.nn.log_softmax(logits_BTV)
        return jnp.sum(jnp.take_along_axis(logps_BTV, case.tokens[:, 1:, None], axis=-1))

    gradient = jax.jit(jax.grad(logp))(case.params)
    with open_weights(case.directory) as weights:
        family = FAMILIES[read_family(case.directory)]
        slots = fit_weights(weights, family, case.config)
    found = dict(stored_tensors(gradient, slots, np.float32))
    expected = {name.partition(" ")[2]: pair for name, pair in case.values.items() if name.startswith("gradient ")}
    assert found.keys() == expected.keys()
    for name, (projection, norm) in expected.items():
        got = np.sum(found[name].astype(np.float64) * case.references.direction(name, found[name].shape))
        scale = max(norm, 1.0)
        assert abs(got - projection) < 1e-4 * scale, (name, got, projection, norm)
        assert abs(np.linalg.norm(found[name]) - norm) < 1e-4 * scale, name


def prompts(case, lengths):
    """The prompts of both rows, right padded."""
    ids = case.tokens[:, : case.references.PROMPT]
    mask = jnp.arange(ids.shape[1])[None] < jnp.asarray(lengths)[:, None]
    zeros = jnp.zeros((2, 1))
    return PromptBatch(prompt_NL=ids, prompt_mask_NL=mask, condition_NM=zeros, context_NS=ids, context_mask_NS=mask)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_greedy_continuation_from_the_cache(case, scan_layers):
    length, new = case.references.PROMPT, case.references.NEW
    settings = dict(group_size=2, max_new_tokens=new, temperature=0.0, end_id=-1, pad_id=0)
    run = jax.jit(lambda *args: generate(case.lm(scan_layers=scan_layers), *args, **settings))
    drawn = run(case.params, prompts(case, (length, length)), jax.random.key(0)).completion_BT
    np.testing.assert_array_equal(drawn, np.repeat(case.values["greedy"], 2, axis=0))


def test_decoding_is_teacher_forcing_behind_prompts_of_any_length(case):
    """decode = extend = forward on the whole text, for prompts that a window covers and that it does not."""
    lm, lengths, group = case.lm(), (case.references.PROMPT, 3), 2
    completion = jnp.asarray(np.random.default_rng(3).integers(1, 48, (4, 5)), jnp.int32)
    batch = prompts(case, lengths)
    prefix = jax.jit(lm.prefill)(case.params, batch.prompt_NL, batch.prompt_mask_NL)
    extended = jax.jit(lm.extend)(
        case.params, batch.prompt_NL, batch.prompt_mask_NL, None, completion, jnp.ones(completion.shape, bool)
    )[0]
    cache, decode = lm.init_cache(prefix, 4, 5), jax.jit(lm.decode)
    for step in range(5):
        hidden, cache = decode(case.params, prefix, cache, completion[:, step], step)
        np.testing.assert_allclose(hidden, extended[:, step], atol=1e-5)
    for row in range(4):
        whole = jnp.concatenate([batch.prompt_NL[row // group, : lengths[row // group]], completion[row]])[None]
        forward = jax.jit(lm.forward)(case.params, whole, jnp.ones(whole.shape, bool))[0]
        np.testing.assert_allclose(extended[row], forward[-5:], atol=1e-5)
        np.testing.assert_allclose(prefix.last_hidden_ND[row // group], forward[-6], atol=1e-5)


def as_text(name):
    """A tensor of a multimodal model as the text decoder alone calls it."""
    return name.replace("model.language_model.", "model.")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_directories_go_round_bitwise(directory_of, stored, tmp_path, dtype, case):
    source = directory_of(case.name, dict(float32=np.float32, bfloat16=ml_dtypes.bfloat16)[dtype])
    config, family = read_decoder_config(source), read_family(source)
    params = load_params(source, config, param_dtype=dtype)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {dtype}
    save_pretrained(tmp_path, params, config, dtype=dtype, family=family, max_shard_bytes=30_000)
    assert read_decoder_config(tmp_path) == config
    with open_weights(source) as before, open_weights(tmp_path) as after:
        kept = {as_text(name): name for name in before.names if not name.startswith(VISION)}
        assert after.names == tuple(sorted(kept))
        for name, tensor in kept.items():
            assert before.dtype(tensor) == after.dtype(name)
            assert before.read(tensor).tobytes() == after.read(name).tobytes(), tensor
    again = load_params(tmp_path, config, param_dtype=dtype)
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), params, again)
    assert all(flatten_dict(same).values())


@pytest.mark.hf
@pytest.mark.skipif(not torch_there, reason="PyTorch is not installed")
def test_live(case, tmp_path):
    """transformers computes the stored values still, we read what it writes, and it reads what we export."""
    from transformers import AutoConfig, AutoModelForCausalLM

    contents = json.loads((case.directory / "config.json").read_text())
    model, _ = case.references.build(AutoConfig.for_model(**contents))
    for name, value in case.references.compute(model).items():
        np.testing.assert_allclose(value, case.values[name], rtol=1e-4, atol=1e-5, err_msg=name)
    model.save_pretrained(tmp_path / "theirs")  # whose config.json leaves out what is usual
    assert read_decoder_config(tmp_path / "theirs") == case.config
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path / "theirs", case.config), case.params)
    save_pretrained(tmp_path, case.params, case.config, family=read_family(case.directory))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", dtype="float32").eval()
    expected = {as_text(name): value for name, value in case.values.items()}
    stored_as = {as_text(name): name for name in (key.removeprefix("gradient ") for key in case.values)}
    for name, value in case.references.compute(exported, stored_as).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
