"""A model whose generation_config.json names several end tokens: each ends a completion, from rollout to judgement."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from visa_jax.cli.experiment import make_visa, open_moc, open_visa
from visa_jax.cli.rewards import make_texts_fn
from visa_jax.cli.train import sample_rows
from visa_jax.data.pool import moc_prompts
from visa_jax.data.source import make_testbed_source
from visa_jax.models.hf import special_ids
from visa_jax.training.policy import PolicyConfig
from visa_jax.training.programs import make_rollout
from visa_jax.types import Scored

pytestmark = pytest.mark.usefixtures("quick_compiles")
LORA = PolicyConfig(lora_rank=2)


@pytest.fixture(scope="module")
def model(chain, tmp_path_factory):
    """A directory that names half of the words as end tokens, and the tokenizer's last: random text soon has one."""
    directory = chain.real_model(tmp_path_factory.mktemp("ends") / "model")
    tokenizer = make_testbed_source().tokenizer
    words = [i for i in range(40, len(tokenizer), 2) if i != tokenizer.convert_tokens_to_ids(".")]
    contents = json.loads((directory / "generation_config.json").read_text())
    contents["eos_token_id"] = [*words, tokenizer.eos_token_id]
    (directory / "generation_config.json").write_text(json.dumps(contents))
    return directory


def first_end(row, ends):
    """Tokens of a row with its end, or all of them."""
    return next((i + 1 for i, token in enumerate(row) if token in ends), len(row))


def check_drawn(token_BT, drawn_BT, ends):
    """What was drawn ends with the first end token, which is one of several; returns the rows without it."""
    lengths = [first_end(row, ends) for row in token_BT]
    np.testing.assert_array_equal(drawn_BT, np.arange(token_BT.shape[1]) < np.asarray(lengths)[:, None])
    assert len({row[n - 1] for row, n in zip(token_BT, lengths, strict=True)} & set(ends)) > 1
    return [[token for token in row[:n] if token not in ends] for row, n in zip(token_BT, lengths, strict=True)]


def test_each_of_them_ends_a_row_of_visa(chain, model):
    """In the rollout, in what text rewards and samples read of it, and where a policy is judged."""
    config = chain.visa_config(chain.directory, policy=LORA)
    runs = dataclasses.replace(config.runs, start=str(model), base=str(model))
    parts, (ends, _), key = open_visa(dataclasses.replace(config, runs=runs)), special_ids(model), jax.random.key(1)
    started, tokenizer = make_visa(parts), parts.source.tokenizer
    prompts = started.experiment.prompts_fn(key, 0)
    rollout = make_rollout(started.experiment, config.loop)
    rollout = jax.jit(rollout)(started.params, started.reference, prompts, key)
    rows = check_drawn(np.asarray(rollout.completion_BT), np.asarray(rollout.mask_BT), ends)
    said = [tokenizer.decode(row, clean_up_tokenization_spaces=False).strip() for row in rows]
    assert list(make_texts_fn(tokenizer, started.experiment.end_id)(rollout).completion) == said
    scored = Scored(rollout=rollout, reward_BK=np.zeros((len(rows), len(started.experiment.rewards))))
    shown = [row["completion"] for row in sample_rows(started.experiment, parts, scored)]
    assert shown == said[:: started.experiment.group_size]
    drawn = parts.sample(parts.policy.join(parts.policy.trained), prompts, key, 1.0)
    rows = check_drawn(drawn.token_BT, drawn.drawn_BT, ends)
    np.testing.assert_array_equal(drawn.mask_BT.sum(axis=1), [len(row) for row in rows])


def test_each_of_them_ends_a_row_of_moc(chain, model):
    config = chain.moc_config(chain.directory, policy=LORA)
    parts = open_moc(dataclasses.replace(config, runs=dataclasses.replace(config.runs, start=str(model))))
    asked = parts.source.questions(8, 0, "train")
    prompts = moc_prompts(parts.source, asked, np.full((8, 2), 0.5), config.preference_encoding)
    drawn = parts.sample(parts.policy.join(parts.policy.trained), prompts, jax.random.key(1), 1.0)
    check_drawn(drawn.token_BT, drawn.drawn_BT, special_ids(model)[0])


def test_a_run_keeps_them(chain, model, call, tmp_path, monkeypatch):
    """Asked and written again: its text ends with any of them, the directory names all in their order."""
    monkeypatch.setattr(chain.quality, "ROWS", 8)
    role = chain.RoleConfig(role="visa_sft", rows=8, fit=chain.FitConfig(steps=1, batch_size=4))
    config = chain.SuperviseConfig(role=role, start=str(model), policy=LORA)
    page, run = chain.page(tmp_path / "page.py", config), tmp_path / "run"
    code, _, error = call("supervise", f"--config={page}", f"--workdir={run}")
    assert code == 0, error
    code, out, error = call("generate", f"--model={run}", "--prompt=green walls", "--temperature=1", "--json")
    assert code == 0 and json.loads(out)["finish"] == "end", error
    assert call("convert", f"--model={run}", f"--out={tmp_path / 'out'}")[0] == 0
    assert special_ids(tmp_path / "out") == special_ids(model)
