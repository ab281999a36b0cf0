"""A Hugging Face model through every command: SFT, RL with adapters on an int8 base, resumed, judged, written again."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from visa_jax import checkpoint
from visa_jax.cli import train
from visa_jax.cli.decoders import open_written
from visa_jax.cli.experiment import open_moc, open_visa
from visa_jax.cli.runs import open_run
from visa_jax.cli.supervise import SuperviseConfig, open_start, supervise
from visa_jax.cli.train import read_config
from visa_jax.config import load_config
from visa_jax.data.source import make_testbed_source
from visa_jax.data.template import visa_prompt
from visa_jax.data.tokenizer import encode_batch, train_tokenizer
from visa_jax.models import load_pretrained
from visa_jax.models.peft import load_adapters
from visa_jax.models.quantize import Int8
from visa_jax.models.weights import open_weights, write_file
from visa_jax.training.metrics import MetricsWriter
from visa_jax.training.policy import PolicyConfig
from visa_jax.training.roles import RoleConfig
from visa_jax.training.supervised import FitConfig
from visa_jax.types import VALUES

TEXT = "green walls . tessa leads . always choose mastery ."
ADAPTERS = PolicyConfig(lora_rank=2, lora_alpha=4.0, lora_pattern="attention/(query|value)|mlp/.*")
INT8 = dataclasses.replace(ADAPTERS, quantize="int8", remat="dots", logp_chunk=40)
pytestmark = pytest.mark.usefixtures("quick_compiles")


class PowerCut(Exception):
    """Ends a run at once."""


def sft_config(model, policy=ADAPTERS):
    role = RoleConfig(role="visa_sft", rows=8, fit=FitConfig(steps=2, batch_size=4))
    return SuperviseConfig(role=role, start=str(model), policy=policy)


@pytest.fixture(scope="module")
def real(chain, quickly, tmp_path_factory):
    """The directory of: model (Hugging Face), visa_sft (trained whole), low_sft (adapters), visa and moc (on int8)."""
    directory = tmp_path_factory.mktemp("real")
    model, source = chain.real_model(directory / "model"), make_testbed_source()
    with quickly():
        for name, policy in (("visa_sft", PolicyConfig()), ("low_sft", ADAPTERS)):
            config = sft_config(model, policy)
            supervise(config, directory / name, source, open_start(config, source))
        chain.train(visa_config(chain, directory), directory / "visa")
        chain.train(moc_config(chain, directory), directory / "moc")
    return directory


def visa_config(chain, directory, start="visa_sft", **changes):
    config = chain.visa_config(chain.directory, policy=INT8)
    runs = dataclasses.replace(config.runs, base=str(directory / "model"), start=str(directory / start))
    return dataclasses.replace(config, **{"runs": runs, **changes})


def moc_config(chain, directory, **changes):
    """PPO with critics, straight from the published model; the preference is a learned map."""
    config = chain.moc_config(chain.directory, policy=INT8)
    moc = dataclasses.replace(config.moc, advantage="gae", num_generations=1)
    runs = dataclasses.replace(config.runs, start=str(directory / "model"))
    loop = dataclasses.replace(config.loop, micro_batches=2)
    return dataclasses.replace(config, **{"runs": runs, "moc": moc, "loop": loop, **changes})


def logits(lm, params, text):
    token, mask = encode_batch(make_testbed_source().tokenizer, [text], 24)
    return np.asarray(jax.jit(lambda params: lm.logits(params, lm.forward(params, token, mask)))(params))[mask]


def test_adapters_change_nothing_before_the_first_step(chain, real):
    """The policy at step 0 is the published model bit for bit, whose parameters are there once for both."""
    plain = visa_config(chain, real, start="model", policy=ADAPTERS)
    parts = open_visa(plain)
    model, _ = load_pretrained(real / "model")
    expected = logits(model.lm, model.params, TEXT)
    np.testing.assert_array_equal(logits(parts.lm, parts.policy.join(parts.policy.trained), TEXT), expected)
    assert parts.base is parts.start and np.ptp(expected) > 0.1
    quantised = open_visa(dataclasses.replace(plain, policy=INT8)).start["layers"]["mlp"]["up"]["kernel"]
    assert isinstance(quantised, Int8)
    step = np.asarray(quantised.step)
    assert (np.abs(quantised.dense() - model.params["layers"]["mlp"]["up"]["kernel"]) <= step / 2 + 1e-7).all()


def test_sft_goes_on_from_the_published_model(real):
    """Two small steps from it: near it, not it; the padding rows of its embedding are kept."""
    model, _ = load_pretrained(real / "model")
    source = make_testbed_source()
    trained = open_written(open_run(real / "visa_sft", "run"), source)
    assert trained.config == model.config and trained.params["embedding"].shape[0] == len(source.tokenizer) + 5
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), trained.params, model.params)
    assert all(0 < amount < 2e-2 for amount in jax.tree.leaves(moved["layers"]))


@pytest.mark.parametrize("name", ["visa", "moc"])
def test_adapters_are_all_that_is_trained_and_kept(name, real):
    """Kernels of the pattern, and of MOC the map of the preference; a checkpoint has their moments and the critic."""
    found = open_run(real / name, "run")
    paths = {"/".join(path) for path in flatten_dict(found.params)}
    kernels = [
        f"layers/{kernel}" for kernel in ("attention/query", "attention/value", "mlp/gate", "mlp/up", "mlp/down")
    ]
    expected = {f"{kernel}/{leaf}" for kernel in kernels for leaf in ("a", "b")}
    assert paths == expected | ({"condition/kernel"} if name == "moc" else set())
    assert all(float(jnp.abs(leaf).max()) > 1e-4 for leaf in jax.tree.leaves(found.params))
    saved = [path.name for path in (real / name / "checkpoints" / "4").rglob("*")]
    assert not [file for file in saved if "embedding" in file]


def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(chain, real, tmp_path, monkeypatch):
    """MOC, whose state is the larger one: adapters, the map of the preference and critics with their moments."""
    config, write = moc_config(chain, real), MetricsWriter.write

    def write_and_die(writer, step, metrics):
        write(writer, step, metrics)
        if step == 3:
            raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(MetricsWriter, "write", write_and_die)
        with pytest.raises(PowerCut):
            chain.train(config, tmp_path)
    assert checkpoint.latest_step(tmp_path) == 2
    begin, restore, begun = train.start, checkpoint.Checkpoints.restore_newest, []

    def begin_and_keep(*args):
        begun.append(begin(*args))
        return begun[0]

    def restore_alone(checkpoints, like):
        """Of the start only the key and shapes are left when the checkpoint is read: there is no room for two."""
        assert {leaf.is_deleted() for leaf in jax.tree.leaves((begun[0].params, begun[0].opt_state))} == {True}
        return restore(checkpoints, like)

    with monkeypatch.context() as patch:
        patch.setattr(train, "start", begin_and_keep)
        patch.setattr(checkpoint.Checkpoints, "restore_newest", restore_alone)
        # the scale is the one that the run began with: nothing is sampled for it
        patch.setattr("visa_jax.cli.experiment.scale_samples", None)
        chain.train(config, tmp_path)
    digests = [json.loads((run / "final.json").read_text())["params_sha256"] for run in (tmp_path, real / "moc")]
    assert digests[0] == digests[1]


def test_a_merged_run_says_what_the_run_says(chain, real, call, tmp_path):
    """generate, rewrite and evaluate of adapters on an int8 base against the plain model that convert writes."""
    run, out = real / "visa", tmp_path / "merged"
    assert call("convert", f"--model={run}", f"--out={out}")[0] == 0
    model, tokenizer = load_pretrained(out)
    found = open_run(run, "run")
    trained = open_written(found, make_testbed_source())
    merged = logits(model.lm, model.params, TEXT)
    parts = open_visa(read_config(found.config))  # as it was trained, and as it is judged
    for params in (trained.params, parts.policy.join(found.params)):
        np.testing.assert_allclose(logits(model.lm, params, TEXT), merged, atol=2e-5)
    start = open_written(open_run(real / "visa_sft", "run"), make_testbed_source())
    assert np.abs(logits(model.lm, start.params, TEXT) - merged).max() > 1e-2
    assert model.family == "llama" and model.end_ids == (tokenizer.eos_token_id,)

    values = '--values={"Security": 0.5}'
    code, told, _ = call("rewrite", f"--workdir={run}", f"--text={TEXT}", values, "--tries=1", "--json")
    told = json.loads(told)
    prompt = visa_prompt("", TEXT, np.array([told["target"][name] for name in VALUES]))
    texts = []
    for directory in (run, out):
        argv = [f"--model={directory}", f"--prompt={prompt}", "--max_new_tokens=32", "--json"]
        texts.append(json.loads(call("generate", *argv)[1])["completion"])
    drawn = [text.split("<eos>")[0].split() for text in (*texts, told["rewrite"])]
    assert drawn[0] == drawn[1] and len(drawn[0]) > 3
    assert [word for word in drawn[0] if word not in ("<pad>", "<bos>")] == drawn[2]


def test_a_run_with_adapters_is_judged_and_compared(real, call, tmp_path):
    workdir = shutil.copytree(real / "visa", tmp_path / "visa")
    code, table, error = call("evaluate", f"--workdir={workdir}", "--rows=4")
    assert (code, error) == (0, "") and "copy of the source" in table
    samples = [json.loads((workdir / "samples" / f"{name}.json").read_text()) for name in ("sft", "visa", "prompted")]
    said = [[sample["completion"] for sample in each] for each in samples]
    assert said[0] != said[1] and said[0] != said[2]
    assert call("compare", workdir, f"--out={tmp_path / 'report'}")[0] == 0


def test_adapters_go_out_as_peft_keeps_them(chain, real, call, tmp_path):
    """What is read back is bitwise what was trained; of a start that is published the directory names it."""
    out = tmp_path / "adapter"
    assert call("convert", f"--model={real / 'visa'}", f"--out={out}", "--adapters")[0] == 0
    model, _ = load_pretrained(real / "model")
    adapters, lora = load_adapters(out, model.config)
    jax.tree.map(np.testing.assert_array_equal, adapters, open_run(real / "visa", "run").params)
    assert (lora.rank, lora.alpha) == (2, 4.0)
    assert call("convert", f"--model={real / 'low_sft'}", f"--out={tmp_path / 'own'}", "--adapters")[0] == 0
    contents = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("adapter", "own")]
    assert [each["base_model_name_or_path"] for each in contents] == [None, str(real / "model")]
    assert contents[0]["target_modules"] == ["down_proj", "gate_proj", "q_proj", "up_proj", "v_proj"]


def test_a_start_with_adapters_is_merged(chain, real):
    """RL from an SFT that trained adapters begins with what that SFT says."""
    trained = open_written(open_run(real / "low_sft", "run"), make_testbed_source())
    parts = open_visa(visa_config(chain, real, start="low_sft", policy=ADAPTERS))
    expected = logits(parts.lm, trained.params, TEXT)
    np.testing.assert_allclose(logits(parts.lm, parts.policy.join(parts.policy.trained), TEXT), expected, atol=1e-5)
    base, _ = load_pretrained(real / "model")
    assert np.abs(logits(parts.lm, base.params, TEXT) - expected).max() > 1e-4


def test_a_converted_run_is_a_start_like_its_source(chain, real, call, tmp_path):
    assert call("convert", f"--model={real / 'model'}", f"--out={tmp_path / 'model'}")[0] == 0
    published, converted = (open_moc(moc_config(chain, directory)).policy for directory in (real, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, published.frozen, converted.frozen)
    assert published.config == converted.config and converted.config.condition == 2


@pytest.mark.parametrize("name", ["mismatch", "window", "pattern", "missing", "block", "rank", "start", "reader"])
def test_what_cannot_be_trained_is_told_in_one_line(name, chain, real, call, tmp_path):
    config, command = visa_config(chain, real, start="model"), "train"
    place = tmp_path / "model"

    def starting(directory, **policy):
        runs = dataclasses.replace(config.runs, start=str(directory))
        return dataclasses.replace(config, runs=runs, policy=PolicyConfig(**policy))

    flags = []
    if name == "mismatch":
        other = train_tokenizer(["it is red ."], "word", 400)
        config = starting(chain.real_model(place, other))
        message = (
            f"config.runs.start: the tokenizer of {place} ({len(other)} tokens) is not that of config.data.tokeniz"
        )
    elif name == "window":
        config = starting(chain.real_model(place, max_length=77))
        message = (
            f"config.runs.start: {place} has a window of 77 tokens, prompt and completion of config.data.sizes need 7"
        )
    elif name == "pattern":
        config = starting(real / "model", lora_rank=2, lora_pattern="attn/q_proj")
        message = "config.policy.lora_pattern: 'attn/q_proj' names none of layers/attention/key, "
    elif name == "missing":
        config = starting(place)
        message = f"config.runs.start: {place} does not exist; make it with visa-jax supervise, or name a Hugging Face"
    elif name == "block":
        config = starting(real / "model", lora_rank=2, quantize="nf4")
        message = "config.policy.quantize: nf4: block: 64 must be even and divide the 16 inputs of"
    elif name == "rank":
        flags, message = ["--config.policy.lora_rank=0"], "config.policy.quantize: is for a frozen base"
    elif name == "start":
        config, command = dataclasses.replace(sft_config(real / "model", PolicyConfig()), start=""), "supervise"
        flags, message = ["--config.policy.lora_rank=4"], "config.policy.lora_rank: is for language models that have a"
    else:
        role = RoleConfig(role="translator", rows=8, fit=FitConfig(steps=1, batch_size=4))
        config, command = SuperviseConfig(role=role, start=str(real / "model")), "supervise"
        message = f"config.start: {real / 'model'} is a Hugging Face model, a translator starts from a run of ours"
    page = chain.page(tmp_path / "page.py", config)
    code, out, error = call(command, f"--config={page}", f"--workdir={tmp_path / 'run'}", *flags)
    assert code in (1, 2) and out == "" and "\n" not in error and f"visa-jax {command}: {message}" in error, error
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_opened_again_is_told_in_one_line(chain, real, call, tmp_path):
    run = shutil.copytree(real / "visa", tmp_path / "visa")
    contents = json.loads((run / "config.json").read_text())
    contents["runs"]["start"] = str(tmp_path / "moved")
    (run / "config.json").write_text(json.dumps(contents))
    for command in ("generate", "convert"):
        flags = {"generate": ["--prompt=a <sep>"], "convert": [f"--out={tmp_path / 'out'}"]}[command]
        code, out, error = call(command, f"--model={run}", *flags)
        assert code == 1 and out == "" and "\n" not in error
        assert f"{run}/config.json: runs.start: {tmp_path / 'moved'} does not exist" in error
    for model, message in ((real / "visa_sft", "--adapters: it was trained as a whole"), (real / "model", "has none")):
        code, out, error = call("convert", f"--model={model}", f"--out={tmp_path / 'out'}", "--adapters")
        assert code == 1 and message in error and "\n" not in error


def on_copies(real, tmp_path, run, start):
    """Copies of a run with adapters and of what it started from, whose names it keeps."""
    run, start = (shutil.copytree(real / name, tmp_path / name) for name in (run, start))
    for path, keys in ((run / "config.json", ("runs",) if run.name == "visa" else ()), (run / "base.json", ())):
        contents = json.loads(path.read_text())
        held = contents[keys[0]] if keys else contents
        held["start"] = str(start)
        path.write_text(json.dumps(contents))
    return run, start


def train_further(model):
    """A published model under its name, with other weights."""
    with open_weights(model) as weights:
        tensors = {name: weights.read(name) for name in weights.names}
    write_file(model / "model.safetensors", tensors | {"model.norm.weight": tensors["model.norm.weight"] * 1.01})


@pytest.mark.parametrize("name, below", [("low_sft", "model"), ("visa", "visa_sft")])
def test_adapters_are_not_read_on_another_base(name, below, chain, real, call, refused, tmp_path):
    """A published model trained further under its name, an SFT made again."""
    run, start = on_copies(real, tmp_path, name, below)
    ask = ("generate", f"--model={run}", "--prompt=a <sep>", "--max_new_tokens=2")
    assert call(*ask)[0] == 0
    if below == "model":
        train_further(start)
    else:
        contents = json.loads((start / "final.json").read_text())
        (start / "final.json").write_text(json.dumps(contents | {"params_sha256": "of another"}))
    field = "start" if name == "low_sft" else "runs.start"
    message = f"{start} holds another model than the one that the adapters of {run} are of (base.json there)"
    assert refused(call(*ask)).endswith(f"{run}/config.json: {field}: {message}")
    # what does not read the base does not care
    assert call("convert", f"--model={run}", f"--out={tmp_path / 'adapter'}", "--adapters")[0] == 0
    if name == "visa":
        for command in (("evaluate",), ("rewrite", f"--text={TEXT}", '--values={"Security": 0.5}')):
            told = refused(call(command[0], f"--workdir={run}", *command[1:]))
            assert told.endswith(f"{run}/config.json: {field}: {message}")
        page = chain.page(tmp_path / "page.py", read_config(load_config(run)))
        assert refused(call("train", f"--config={page}", f"--workdir={run}")).endswith(f"config.{field}: {message}")


def test_adapters_that_start_over_are_of_the_base_that_is_there(real, tmp_path):
    """Interrupted, the run before stays what it was; finished, base.json is of the new base."""
    run, start = on_copies(real, tmp_path, "low_sft", "model")
    before = json.loads((run / "base.json").read_text())
    train_further(start)
    config, source = sft_config(start), make_testbed_source()

    def interrupt(*args, **more):
        raise KeyboardInterrupt

    opened = open_start(config, source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visa_jax.cli.supervise.fit_in", interrupt)
        with pytest.raises(KeyboardInterrupt):
            supervise(config, run, source, opened)
    assert json.loads((run / "base.json").read_text()) == before and (run / "final.json").is_file()
    supervise(config, run, source, open_start(config, source))
    after = json.loads((run / "base.json").read_text())
    assert after["start"] == before["start"] and after["sha256"] != before["sha256"]
    open_written(open_run(run, "run"), source)
