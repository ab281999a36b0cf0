"""Rows of JSON lines, csv and tsv, and the one line that refuses a bad one."""

import json

import numpy as np
import pytest

from visa_jax.config import UserError
from visa_jax.data.sources.table import FieldConfig, read_table
from visa_jax.types import VALUES

FIELDS = FieldConfig(question="q", answer="a", values="v", rewards=("good", "short"))
ROW = {"q": "Why?", "a": "Because.", "v": {"Security": 0.5}, "good": "yes", "short": 0.25}


def write(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def test_fields_are_mapped_and_labels_read(tmp_path):
    as_list = [0.0] * 9 + [-1]
    path = write(tmp_path / "rows.jsonl", ROW, ROW | {"a": "No.", "v": as_list, "good": False}, ROW | {"v": None})
    rows = read_table(path, FIELDS)
    assert [row.answer for row in rows] == ["Because.", "No.", "Because."]
    expected = np.zeros(10)
    expected[VALUES.index("Security")] = 0.5
    np.testing.assert_array_equal(rows[0].value, expected)
    assert rows[1].value[VALUES.index("Universalism")] == -1 and rows[2].value is None
    np.testing.assert_array_equal(np.stack([row.scores for row in rows]), [[1, 0.25], [0, 0.25], [1, 0.25]])
    assert rows[1].place == f"{path} line 2"


@pytest.mark.parametrize(("suffix", "comma"), [(".csv", ","), (".tsv", "\t")])
def test_separated_files_give_the_same_rows(tmp_path, suffix, comma):
    path = tmp_path / f"rows{suffix}"
    cells = ['"Why, oh why?"', '"He said ""so""."', '"{""Security"": 0.5}"', "no", "0.25"]
    path.write_text("\n".join([comma.join(["q", "a", "v", "good", "short"]), comma.join(cells), ""]))
    (row,) = read_table(path, FIELDS)
    assert (row.question, row.answer) == ("Why, oh why?", 'He said "so".')
    assert row.value[VALUES.index("Security")] == 0.5
    np.testing.assert_array_equal(row.scores, [0, 0.25])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ""}, "line 2: field 'a' is empty"),
        ({"a": 3}, "line 2: field 'a' is int, expected text"),
        ({"q": None}, "line 2: field 'q' is missing"),
        ({"good": "maybe"}, "line 2: field 'good' is 'maybe', expected a number, yes or no"),
        ({"good": float("nan")}, "line 2: field 'good' is nan"),
        ({"v": {"Securty": 1}}, "line 2: field 'v': no value is called 'Securty'; did you mean 'Security'?"),
        ({"v": {"Security": 2}}, r"line 2: field 'v': Security is 2, expected a number in \[-1, 1\]"),
        ({"v": [1, 2]}, "line 2: field 'v' is neither"),
    ],
)
def test_a_bad_row_is_refused_by_file_line_and_field(tmp_path, change, message):
    path = write(tmp_path / "rows.jsonl", ROW, ROW | change)
    with pytest.raises(UserError, match=rf"rows\.jsonl {message}") as caught:
        read_table(path, FIELDS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.jsonl", '{"q": "a"\n', "rows.jsonl line 1: not JSON"),
        ("rows.jsonl", "[1]\n", "rows.jsonl line 1: expected a JSON object, got list"),
        ("rows.jsonl", "\n\n", "rows.jsonl: holds no row"),
        ("rows.csv", "q,a\nx\n", "rows.csv line 2: 1 fields, the header has 2"),
        ("rows.txt", "x", "rows.txt is none of .jsonl, .csv, .tsv"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / name, FIELDS)


def test_a_missing_file_and_other_bytes_are_refused(tmp_path):
    with pytest.raises(UserError, match="gone.jsonl does not exist"):
        read_table(tmp_path / "gone.jsonl", FIELDS)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="bytes.jsonl: not UTF-8 text"):
        read_table(tmp_path / "bytes.jsonl", FIELDS)
