"""A name of the hub does wherever a directory of a model does, through the commands and in configs."""

import dataclasses
import json

import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from visa_jax.cli.blueprint import policy_decoder
from visa_jax.cli.experiment import open_visa
from visa_jax.cli.sources import DataConfig, make_source
from visa_jax.config import load_config
from visa_jax.data.sources.tokens import TokenizerConfig
from visa_jax.data.testbed.vocabulary import vocabulary
from visa_jax.models import load_pretrained
from visa_jax.models.hf import read_decoder_config
from visa_jax.models.weights import open_weights
from visa_jax.planning.sizes import PlanConfig
from visa_jax.training.policy import PolicyConfig
from visa_jax.types import VALUES

pytestmark = pytest.mark.usefixtures("quick_compiles")
TEXT = "green walls . tessa leads ."


@pytest.fixture(scope="module")
def models(chain, published, tmp_path_factory):
    """Directories of a decoder and two classifiers, by the name that the hub has them under."""
    directory = tmp_path_factory.mktemp("hub")
    tokenizer = published.make_tokenizer(vocabulary())
    published.write_encoder(directory / "values", tokenizer, VALUES)
    published.write_encoder(directory / "nli", tokenizer, ("contradiction", "neutral", "entailment"))
    chain.real_model(directory / "model")
    return {f"org/{path.name}": path for path in directory.iterdir()}


@pytest.fixture
def fetched(models, monkeypatch, tmp_path):
    """What was asked of the hub: (name, whether with weights). The test runs in an empty directory."""
    calls = []

    def snapshot_download(name, allow_patterns, revision):
        assert revision in (None, "v1")
        calls.append((name, "*.safetensors" in allow_patterns))
        if name not in models:
            raise LocalEntryNotFoundError("a page\nof text")
        return str(models[name])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return calls


def test_generate_and_convert_take_a_name(models, fetched, call, tmp_path):
    told = [
        call("generate", f"--model={name}", "--prompt=green walls", "--max_new_tokens=5", "--json")
        for name in ("org/model", models["org/model"])
    ]
    assert told[0] == told[1] and told[0][0] == 0 and fetched == [("org/model", True)]
    assert call("convert", "--model=org/model", f"--out={tmp_path / 'run'}")[0] == 0
    assert call("convert", f"--model={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")[0] == 0
    with open_weights(models["org/model"]) as before, open_weights(tmp_path / "out") as after:
        assert before.names == after.names
        for name in before.names:
            np.testing.assert_array_equal(after.read(name), before.read(name))


def named_config(chain, **runs):
    config = chain.visa_config(chain.directory, policy=PolicyConfig(lora_rank=2, lora_alpha=4.0))
    runs = dict(start="org/model", base="org/model", detector="org/values", analyzer="org/nli", translator="") | runs
    loop = dataclasses.replace(config.loop, steps=1, evaluate_every=0)
    return dataclasses.replace(config, runs=dataclasses.replace(config.runs, **runs), loop=loop)


def test_a_run_stands_on_names(chain, models, fetched, call, tmp_path):
    """Start, base, rewards and judges; the run keeps the name, opens by it, and gives it to PEFT."""
    names = dict(start="org/model@v1", base="org/model@v1", judge_detector="org/values")
    config = named_config(chain, **names, judge_analyzer=str(chain.directory / "analyzer"))
    parts, (model, _) = open_visa(config), load_pretrained(models["org/model"])
    jax.tree.map(np.testing.assert_array_equal, parts.start, model.params)
    assert parts.base is parts.start and {name for name, _ in fetched} == set(models)

    page, run = chain.page(tmp_path / "page.py", config), tmp_path / "run"
    code, _, error = call("train", f"--config={page}", f"--workdir={run}")
    assert code == 0 and load_config(run).runs.start == "org/model@v1", error
    assert call("generate", f"--model={run}", "--prompt=green walls", "--max_new_tokens=2")[0] == 0
    code, _, error = call("detect", f"--workdir={run}", f"--text={TEXT}", "--json")
    assert code == 0, error
    assert call("convert", f"--model={run}", f"--out={tmp_path / 'adapter'}", "--adapters")[0] == 0
    told = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (told["base_model_name_or_path"], told["revision"]) == ("org/model", "v1")


def test_a_tokenizer_and_a_plan_take_a_name_and_fetch_no_weights(chain, models, fetched, tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        "".join(f'{{"question": "q {i} ?", "answer": "green walls ."}}\n' for i in range(20))
    )
    data = DataConfig(path="rows.jsonl", tokenizer=TokenizerConfig(directory="org/model"))
    same = dataclasses.replace(data, tokenizer=TokenizerConfig(directory=str(models["org/model"])))
    assert make_source(data).tokenizer.get_vocab() == make_source(same).tokenizer.get_vocab()
    config = dataclasses.replace(named_config(chain), plan=PlanConfig(prompt_length=8, completion_length=8))
    assert policy_decoder(config).width == read_decoder_config(models["org/model"]).width
    assert fetched == [("org/model", False)] * 2


@pytest.mark.parametrize("field", ["start", "base", "detector", "judge_analyzer", "embedder"])
def test_a_name_that_is_not_reached_is_told_in_one_line(field, chain, fetched, call, tmp_path):
    config = named_config(chain, **{field: "org/none"})
    if field == "embedder":
        names, weights = ("value", "consistency", "similarity"), (0.5, 0.5, 0.5)
        config = dataclasses.replace(
            config, visa=dataclasses.replace(config.visa, reward_names=names, reward_weights=weights)
        )
    page = chain.page(tmp_path / "page.py", config)
    code, out, error = call("train", f"--config={page}", f"--workdir={tmp_path / 'run'}")
    assert (code, out) == (1, "") and "\n" not in error
    assert f"config.runs.{field}: org/none: no such directory, nor a model that the hub gives (it is not" in error
    for command in ("generate", "convert"):
        code, out, error = call(command, "--model=org/none", *[f"--out={tmp_path / 'out'}"] * (command == "convert"))
        assert code == 1 and error.startswith(f"visa-jax {command}: --model: org/none: no such directory, nor a model")
