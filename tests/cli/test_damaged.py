"""Workdirs that are damaged, for every command that opens one: each told in one line, before anything compiles."""

import json
import shutil

import pytest

pytestmark = pytest.mark.usefixtures("quick_compiles")

TEXT = "green walls . tessa leads . always choose mastery ."
QUESTION = "what about the archive ?"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "no config": (lambda run: (run / "config.json").unlink(), "not a run (there is no config.json in it)"),
    "half a config": (lambda run: cut(run / "config.json"), "config.json: not JSON"),
    "not finished": (lambda run: (run / "final.json").unlink(), "holds an unfinished run; go on with it first"),
    "no parameters": (lambda run: shutil.rmtree(run / "params"), "params: no such checkpoint"),
    "parameters being saved": (lambda run: (run / "params.json").unlink(), "params: half-written checkpoint"),
    "half the parameters": (
        lambda run: cut(max((run / "params").rglob("*"), key=lambda file: file.is_file() * file.stat().st_size)),
        "damaged checkpoint",
    ),
    "no tokenizer": (lambda run: shutil.rmtree(run / "tokenizer"), "tokenizer directory"),
    "half a tokenizer": (lambda run: cut(run / "tokenizer" / "tokenizer.json"), "holds no tokenizer that can be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ["evaluate", "detect", "rewrite", "generate"])
def test_damaged_workdirs_are_refused_in_one_line(damage, command, copied, call, compiles, refused):
    workdir = copied("visa")
    spoil, message = DAMAGES[damage]
    spoil(workdir)
    flags = {
        "evaluate": [],
        "detect": [f"--text={TEXT}"],
        "rewrite": [f"--text={TEXT}", '--values={"Power": 1}'],
        "generate": [f"--prompt={QUESTION}"],
    }[command]
    place = "--model" if command == "generate" else "--workdir"
    compiles.reset()
    assert message in refused(call(command, f"{place}={workdir}", *flags))
    assert compiles.count == 0, compiles.names


def test_a_run_that_lost_its_parts_names_the_field(copied, call, refused):
    workdir = copied("visa")
    config = json.loads((workdir / "config.json").read_text())
    config["runs"]["analyzer"] = "nowhere"
    (workdir / "config.json").write_text(json.dumps(config))
    error = refused(call("evaluate", f"--workdir={workdir}"))
    assert error.endswith("config.runs.analyzer: nowhere does not exist; make it with visa-jax supervise")
