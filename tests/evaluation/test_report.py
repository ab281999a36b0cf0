"""The report: what is given is shown, what is missing is named, nothing is fetched, nothing is executed."""

import json
import math
import re

import pytest

from visa_jax.config import UserError
from visa_jax.evaluation.records import group_runs, merge_runs, read_run, read_track
from visa_jax.evaluation.report import comparison_table, write_comparison, write_report
from visa_jax.evaluation.tables import (
    format_cell,
    format_number,
    make_differences,
    make_tables,
    write_csv,
    write_markdown,
)
from visa_jax.plots import draw_figures


def no_figures(summary, curves, samples, labels):
    return {}


def edit(run_dir, change):
    """Rewrite a run's summary by change(summary)."""
    path = run_dir / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    change(summary)
    path.write_text(json.dumps(summary), encoding="utf-8")


def text_of(path):
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.91374, "0.914"),
        (-0.5, "−0.500"),
        (0.00012, "1.2e−04"),
        (1e-17, "0.000"),
        (3148.66, "3,148.7"),
        (math.nan, "–"),
        (None, "–"),
        (math.inf, "∞"),
        (12, "12"),
        (True, "yes"),
        ("cpu", "cpu"),
    ],
)
def test_numbers_are_written_for_a_reader(value, text):
    assert format_number(value) == text


def test_cells_of_several_runs_show_mean_and_deviation():
    # mean of 1, 2, 3 is 2, their sample deviation sqrt((1 + 0 + 1) / 2) = 1
    assert format_cell({"values": [1.0, 2.0, 3.0]}) == "2.000 ± 1.000"
    assert format_cell({"values": [1.0, math.nan, None]}) == "1.000"
    assert format_cell({"values": [None]}) == "–"
    assert format_cell([0.8, 0.7], 1) == "0.8 / 0.7"


def test_best_is_bold_but_never_the_copy():
    rows = {
        "copy": {"oracle_consistency": 1.0, "oracle_value_l2": 1.5},
        "sft": {"oracle_consistency": 0.5, "oracle_value_l2": 0.3},
        "visa": {"oracle_consistency": 0.9, "oracle_value_l2": 0.4},
    }
    (table,) = make_tables({"visa": {"rows": rows}})
    best = {row.name: [cell.best for cell in row.cells] for row in table.rows}
    assert best == {"copy": [False, False], "sft": [False, True], "visa": [True, False]}  # L2: lower is better
    assert {row.name: row.kind for row in table.rows} == {"copy": "reference", "sft": "baseline", "visa": ""}


def test_equal_figures_share_the_mark_and_a_single_row_has_none():
    rows = {"linear_ppo": {"tau": 0.90001}, "moc": {"tau": 0.9}}
    (table,) = make_tables({"moc": {"rows": rows}})
    assert all(row.cells[0].best for row in table.rows)
    (table,) = make_tables({"moc": {"rows": {"moc": {"tau": 0.9}}}})
    assert not table.rows[0].cells[0].best


def test_html_shows_the_numbers_given(make_synthetic_run):
    run_dir = make_synthetic_run()
    edit(run_dir, lambda s: s["moc"]["rows"]["moc"].update(hypervolume=0.98765, control_error=0.0123))
    page = text_of(write_report(run_dir, no_figures))
    assert "<b>0.988</b>" in page and "<b>0.0123</b>" in page
    assert "does not hold" in page and "✓ holds" in page and "not tested" in page and "2 of 3 claims hold" in page
    assert "Over it: supervised." in page  # 121.4 s of 120
    assert "0.10.2" in page and "update_moc" in page and "normalizer.helpful" in page


def test_html_needs_nothing_else(make_synthetic_run):
    page = text_of(write_report(make_synthetic_run(), draw_figures))
    assert "<script" not in page and "http" not in page and "<link" not in page and "@import" not in page
    sources = re.findall(r'src="([^"]{0,26})', page)
    assert len(sources) >= 12 and set(sources) == {"data:image/svg+xml;base64,"}
    assert "Nothing is missing." in page
    assert len(page) < 3_000_000


def test_a_sample_cannot_run_code(make_synthetic_run):
    run_dir = make_synthetic_run()
    path = run_dir / "samples" / "visa.json"
    rows = json.loads(text_of(path))
    rows[0]["completion"] = "<script>alert('x')</script> & more\n  second line"
    rows[0]["prompt"] = '"><img src=x onerror=alert(1)>'
    path.write_text(json.dumps(rows), encoding="utf-8")
    page = text_of(write_report(run_dir, no_figures))
    assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; more\n  second line" in page


def test_ten_samples_of_each_method_are_printed(make_synthetic_run):
    page = text_of(write_report(make_synthetic_run(), no_figures))  # files hold twelve
    assert page.count('<div class="sample">') == 8 * 10
    assert "Question 9:" in page and "Question 10:" not in page
    assert "Security +0.50, Tradition −0.50" in page and "preference 0.30 / 0.70" in page


def test_missing_figures_are_dashes(make_synthetic_run):
    run_dir = make_synthetic_run()
    edit(
        run_dir, lambda s: s["fishwood"].update(rows={"moc": {"tau": math.nan, "control_error": 0.5}, "linear_ppo": {}})
    )
    page = text_of(write_report(run_dir, no_figures))
    assert not re.search(r"\bnan\b", page, re.IGNORECASE) and "None" not in page
    assert "<td>–</td>" in page


def test_missing_parts_are_named(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"seed": 3, "moc": {"rows": {"moc": {"tau": 0.5}}}}))
    page = text_of(write_report(tmp_path, draw_figures))
    listed = page[page.index('<h2 id="missing">') :]
    for part in ("summary.visa)", "summary.fishwood)", "summary.claims)", "summary.supervised)", "summary.seconds)"):
        assert part in listed
    assert "learning curves" in listed and "samples" in listed and "enumerated front" in listed
    assert "summary.moc)" not in listed and "No claim was tested" in page


def test_an_empty_summary_still_makes_a_page(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    page = text_of(write_report(tmp_path, draw_figures))
    assert "No comparison figures" in page and page.rstrip().endswith("</html>")


def test_terminal_table_fits_and_holds_the_figures(make_synthetic_run):
    summary = read_run(make_synthetic_run()).summary
    summary["moc"]["rows"]["moc"]["hypervolume"] = 0.98765
    summary["claims"].append({"claim": "long " * 40, "holds": None})
    text = comparison_table(summary)
    assert max(map(len, text.splitlines())) <= 100
    assert "0.988*" in text and "copy of the source (r)" in text and "MOC, c = ½ fixed (a)" in text
    assert "does not hold" in text
    assert comparison_table({}) == "(no comparison figures in this summary)"


def test_terminal_table_of_several_runs_fits(make_synthetic_run):
    runs = [read_run(make_synthetic_run(name, seed)) for name, seed in (("a", 0), ("b", 1), ("c", 2))]
    text = comparison_table(merge_runs(runs).summary)
    assert max(map(len, text.splitlines())) <= 100
    assert " ± " in text and "JSR ↑" in text


def test_csv_and_markdown_hold_every_figure(make_synthetic_run, tmp_path):
    summary = read_run(make_synthetic_run()).summary
    lines = text_of(write_csv(summary, tmp_path / "t.csv")).splitlines()
    assert lines[0] == "section,method,metric,mean,sd,runs"
    volume = summary["moc"]["rows"]["moc"]["hypervolume"]
    assert f"moc,moc,hypervolume,{volume!r},,1" in lines
    text = text_of(write_markdown(summary, tmp_path / "t.md"))
    assert f"{volume:.3f}" in text and "range ↑" in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_repetitions_are_averaged(make_synthetic_run, tmp_path):
    dirs = [make_synthetic_run(name, seed) for name, seed in (("a", 0), ("b", 1), ("c", 2))]
    for run_dir, volume in zip(dirs, (0.5, 0.6, 0.7), strict=True):
        edit(run_dir, lambda s, v=volume: s["moc"]["rows"]["moc"].update(hypervolume=v))
        edit(run_dir, lambda s, v=volume: s["moc"]["rows"]["linear_ppo"].update(hypervolume=v - 0.25))
    edit(dirs[2], lambda s: s["claims"][0].update(holds=False))
    page = text_of(write_comparison(dirs, tmp_path / "out", no_figures))
    assert "<b>0.600 ± 0.100</b>" in page and "0.350 ± 0.100" in page
    assert "in 2 of 3" in page
    assert (tmp_path / "out" / "tables.csv").is_file()
    merged = merge_runs([read_run(run_dir) for run_dir in dirs])
    assert len(merged.summary["moc"]["points"]["moc"]) == 3 * 17
    assert [len(tracks) for tracks in merged.curves.values()] == [3] * 4
    differences = {(d.section, d.title, d.contrast): d for d in make_differences(merged.summary)}
    gain = differences["MOC", "hyper-volume ↑", "MOC against linear PPO"]
    assert gain.mean == pytest.approx(0.25) and gain.low == pytest.approx(0.25) and gain.verdict == "better"


def test_a_difference_that_may_be_chance_is_called_so():
    # differences 1, −1, 0.3: mean 0.1; t(2, 97.5 %) = 4.303, deviation 1.015, so the interval is 0.1 ± 2.52
    rows = {
        "moc": {"hypervolume": {"values": [1.0, 0.0, 0.3]}},
        "linear_ppo": {"hypervolume": {"values": [0.0, 1.0, 0.0]}},
    }
    (difference,) = make_differences({"moc": {"rows": rows}})
    assert difference.mean == pytest.approx(0.1)
    assert difference.high - difference.mean == pytest.approx(2.521, abs=2e-3)
    assert difference.verdict == "no clear difference"
    rows = {
        "moc": {"control_error": {"values": [0.1, 0.11]}},
        "fixed_half": {"control_error": {"values": [0.05, 0.06]}},
    }
    (difference,) = make_differences({"moc": {"rows": rows}})
    assert difference.verdict == "worse"  # a lower control error is better


def test_runs_that_are_no_repetitions_stay_apart(make_synthetic_run):
    same = [read_run(make_synthetic_run(name, 0)) for name in ("a", "b")]  # the same seed twice
    assert len(group_runs(same)) == 2
    rows = merge_runs(same).summary["visa"]["rows"]
    assert "visa · a" in rows and "visa · b" in rows and "visa" not in rows
    other = same[1]._replace(summary=same[1].summary | {"seed": 1, "mode": "fast"})
    assert len(group_runs([same[0], other])) == 2
    repeated = same[1]._replace(summary=same[1].summary | {"seed": 1})
    assert len(group_runs([same[0], repeated])) == 1


def test_hypervolumes_from_different_reference_points_are_refused(make_synthetic_run, tmp_path):
    dirs = [make_synthetic_run("a", 0), make_synthetic_run("b", 1)]
    edit(dirs[1], lambda s: s["moc"].update(reference_point=[-1, 0]))
    with pytest.raises(UserError, match="moc.reference_point"):
        write_comparison(dirs, tmp_path / "out", no_figures)


def test_a_resumed_and_an_interrupted_curve_are_read(tmp_path):
    path = tmp_path / "visa.jsonl"
    path.write_text('{"step": 1, "reward": 1}\n{"step": 2, "reward": 2}\n{"step": 2, "reward": 5}\n{"step": 3, "rew')
    assert read_track(path) == [{"step": 1, "reward": 1}, {"step": 2, "reward": 5}]
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        read_track(path)
    path.write_text('{"reward": 1}\n{"step": 3}\n')
    with pytest.raises(UserError, match='line 1 has no "step"'):
        read_track(path)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_bad_directory_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(UserError, match=r"summary\.json") as raised:
        write_report(tmp_path, no_figures)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="at least one run"):
        write_comparison([], tmp_path, no_figures)
