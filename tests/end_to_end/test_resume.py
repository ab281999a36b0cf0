"""A run that was interrupted and gone on with ends with the very parameters of one that was never touched."""

import json
import os
import signal

import pytest

from visa_jax import checkpoint
from visa_jax.cli import main as cli
from visa_jax.training.metrics import MetricsWriter, read_metrics

pytestmark = pytest.mark.usefixtures("quick_compiles")


class PowerCut(Exception):
    """Ends a run at once: nothing of ours catches it."""


def press_ctrl_c(monkeypatch):
    """Ctrl-C while step 3 is being worked on, right after the checkpoint of step 2."""
    save = checkpoint.Checkpoints.save

    def save_and_interrupt(checkpoints, step, state, score):
        path = save(checkpoints, step, state, score)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return path

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save_and_interrupt)
    return KeyboardInterrupt, 3


def cut_power(monkeypatch):
    """The machine goes down after step 3: the checkpoint of step 2 and a line of step 3 are left."""
    write = MetricsWriter.write

    def write_and_die(writer, step, metrics):
        write(writer, step, metrics)
        if step == 3:
            raise PowerCut

    monkeypatch.setattr(MetricsWriter, "write", write_and_die)
    return PowerCut, 2


def digest(workdir):
    return json.loads((workdir / "final.json").read_text())["params_sha256"]


@pytest.mark.parametrize(("method", "interrupt"), [("visa", press_ctrl_c), ("moc", cut_power)])
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(method, interrupt, chain, tmp_path, monkeypatch):
    config = {"visa": chain.visa_config, "moc": chain.moc_config}[method](chain.directory)
    with monkeypatch.context() as patch:
        kind, saved = interrupt(patch)
        with pytest.raises(kind):
            chain.train(config, tmp_path)
    assert checkpoint.latest_step(tmp_path) == saved and not (tmp_path / "final.json").exists()
    chain.train(config, tmp_path)

    unbroken = chain.directory / method
    assert digest(tmp_path) == digest(unbroken)
    # a run that learns nothing, or goes on from the start, would pass for resumed without these two
    assert digest(unbroken) != digest(chain.directory / f"{method}_sft")
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
    rewards = [[row["reward"] for row in read_metrics(workdir)] for workdir in (tmp_path, unbroken)]
    assert rewards[0] == rewards[1]
    if method == "moc":
        assert (tmp_path / "normalizer.json").read_text() == (unbroken / "normalizer.json").read_text()


def test_a_workdir_with_another_config_is_not_gone_on_with(chain, tmp_path, capsys):
    page = tmp_path / "page.py"
    config = json.loads((chain.directory / "visa" / "config.json").read_text())
    page.write_text(
        "import json\nfrom ml_collections import ConfigDict\n"
        "def get_config(arg=None):\n"
        "    as_tuples = lambda x: tuple(map(as_tuples, x)) if isinstance(x, list) else "
        "{k: as_tuples(v) for k, v in x.items()} if isinstance(x, dict) else x\n"
        f"    return ConfigDict(as_tuples(json.loads({json.dumps(config)!r})))\n"
    )
    argv = ["train", f"--config={page}", f"--workdir={chain.directory / 'visa'}", "--config.visa.beta=0.5"]
    assert cli.run(argv) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "holds a run with another config (visa.beta: 0.04 -> 0.5)" in error
