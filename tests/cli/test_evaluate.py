"""`visa-jax evaluate` and `compare` on finished runs."""

import csv
import json

import pytest

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_evaluated_runs_can_be_compared(copied, call, tmp_path):
    visa, moc, out = copied("visa"), copied("moc"), tmp_path / "report"
    code, table, error = call("evaluate", f"--workdir={visa}", "--rows=4")
    assert (code, error) == (0, "") and "VISA, by the oracle (truth)" in table and "copy of the source" in table
    rows = json.loads((visa / "evaluation.json").read_text())["visa"]
    assert list(rows) == ["copy", "prompted", "sft", "visa", "visa_loop"]
    # the copied source keeps every fact, and lies as far from the target as it was asked to move
    assert rows["copy"]["oracle_consistency"] == 1.0 and rows["copy"]["oracle_unreadable"] == 0.0
    assert rows["copy"]["oracle_jsr"] == 0.0 and rows["copy"]["oracle_value_l2"] > 0.4

    code, table, error = call("evaluate", f"--workdir={moc}", "--rows=2", "--grid=3")
    assert (code, error) == (0, "") and "MOC, by the oracle (truth)" in table
    summary = json.loads((moc / "summary.json").read_text())
    assert list(summary["moc"]["rows"]) == ["sft", "moc"] and summary["moc"]["reference_point"] == [0.0, 0.0]
    points = summary["moc"]["points"]["moc"]
    assert [p["preference"] for p in points if not p["unseen"]] == [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    assert sum(p["unseen"] for p in points) == 40
    with (moc / "evaluation.csv").open() as file:
        found = {(line["method"], line["metric"]): line["mean"] for line in csv.DictReader(file)}
    assert float(found["moc", "learned_control_error"]) == summary["moc"]["rows"]["moc"]["learned_control_error"]
    assert "| MOC" in (moc / "evaluation.md").read_text() and (moc / "plots" / "pareto_moc.png").stat().st_size > 1000

    code, table, error = call("compare", visa, moc, f"--out={out}")
    assert (code, error) == (0, "") and "VISA · visa" in table and "MOC · moc" in table
    page = (out / "report.html").read_text()
    assert "VISA, closed loop" in page and "MOC · moc" in page


def test_a_moc_run_without_its_reward_scale_is_refused(copied, call, compiles, refused):
    workdir = copied("moc")
    (workdir / "normalizer.json").unlink()
    compiles.reset()
    assert "normalizer.json: no such file" in refused(call("evaluate", f"--workdir={workdir}"))
    assert compiles.count == 0, compiles.names


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "--workdir=nowhere"], "--workdir: nowhere does not exist; make it with visa-jax train"),
        (["evaluate", "--workdir={base}"], "--workdir: {base} holds a run of 'base', expected 'visa' or 'moc'"),
        (["evaluate", "--workdir={visa}", "--grid=5"], "--grid: is of MOC runs"),
        (["evaluate", "--workdir={visa}", "--grid=1"], "--grid=1"),
        (["compare"], "name at least one run directory"),
        (["compare", "nowhere"], "nowhere: no such directory"),
        (["compare", "{base}"], "{base}: has no summary.json; judge it first: visa-jax evaluate --workdir={base}"),
    ],
)
def test_evaluate_and_compare_refuse_in_one_line(argv, message, chain, call, compiles, refused):
    places = {name: str(chain.directory / name) for name in ("base", "visa")}
    argv = [word.format(**places) for word in argv]
    compiles.reset()
    assert refused(call(*argv)).startswith(f"visa-jax {argv[0]}: {message.format(**places)}")
    assert compiles.count == 0, compiles.names
