"""Notebooks run from the first cell to the last over a run's directory, define nothing and hold no output."""

import json

import pytest


@pytest.fixture
def cells(root):
    contents = json.loads((root / "notebooks" / "read_results.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in contents["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_reads_a_run(cells, make_synthetic_run, monkeypatch, capsys):
    monkeypatch.setenv("RUN", str(make_synthetic_run()))
    names: dict = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    told = capsys.readouterr().out
    assert "hyper-volume" in told and "does not hold" in told and "control/moc" in told
    assert len(names["wanted"]) == 3


def test_the_notebook_defines_nothing_and_is_kept_without_output(cells):
    for cell in cells:
        source = "".join(cell["source"])
        assert not cell["outputs"] and cell["execution_count"] is None
        assert "def " not in source and "class " not in source and "lambda" not in source
