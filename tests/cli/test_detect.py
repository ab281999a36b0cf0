"""`visa-jax detect` on finished runs."""

import json

import numpy as np
import pytest

from visa_jax.cli.experiment import open_visa
from visa_jax.cli.runs import open_run
from visa_jax.cli.train import read_config
from visa_jax.types import VALUES

pytestmark = pytest.mark.usefixtures("quick_compiles")

TEXT = "green walls . tessa leads . always choose mastery ."


def test_detect_reads_the_ten_values_by_name(chain, call):
    code, out, error = call("detect", f"--workdir={chain.directory / 'detector'}", f"--text={TEXT}", "--json")
    told = json.loads(out)
    assert (code, error) == (0, "") and list(told["values"]) == list(VALUES) and told["unknown_words"] == []
    # the first of the twins reads, the second one is the judge
    found = open_run(chain.directory / "visa", "run")
    parts = open_visa(read_config(found.config))
    expected, judge = (parts.readers.values(model, [TEXT])[0] for model in (parts.rewarders[0], parts.judges[0]))
    np.testing.assert_allclose(list(told["values"].values()), expected, atol=1e-4)
    assert np.abs(expected - judge).max() > 1e-2


def test_detect_finds_the_detector_of_a_visa_run(chain, visa, call):
    code, out, _ = call("detect", f"--workdir={visa}", f"--text={TEXT}")
    assert code == 0 and out == call("detect", f"--workdir={chain.directory / 'detector'}", f"--text={TEXT}")[1]
    lines = dict(line.split() for line in out.splitlines())
    assert list(lines) == list(VALUES) and all(-1 <= float(level) <= 1 for level in lines.values())


def test_unknown_words_are_named_and_a_text_of_nothing_else_is_refused(chain, call, refused):
    workdir = f"--workdir={chain.directory / 'detector'}"
    code, out, error = call("detect", workdir, f"--text={TEXT} blorf , Zweck", "--json")
    assert code == 0 and error == "--text: words that the model does not know: blorf, Zweck"
    assert json.loads(out)["unknown_words"] == ["blorf", "Zweck"]
    error = refused(call("detect", workdir, "--text=blorf , zweck ."))
    assert error == "visa-jax detect: --text: the model knows none of its words (blorf, zweck)"
