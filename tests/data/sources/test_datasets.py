"""The readers of the three data sets, on small files of their form, and on the data where it is there."""

import json

import numpy as np
import pytest

from visa_jax.config import UserError
from visa_jax.data.sources.truthfulqa import read_truthfulqa
from visa_jax.data.sources.valuebench import read_valuebench
from visa_jax.data.sources.valueeval import CATEGORIES, describe_mapping, read_valueeval
from visa_jax.types import VALUES


def write_valueeval(directory, labels=("A1", *["1"] + ["0"] * 19)):
    for name in ("training", "validation"):
        (directory / f"arguments-{name}.tsv").write_text(
            'Argument ID\tConclusion\tStance\tPremise\nA1\tWe should\tagainst\t"quoted, not a csv.\n'
        )
        (directory / f"labels-{name}.tsv").write_text(
            "\t".join(["Argument ID", *CATEGORIES]) + "\n" + "\t".join(labels) + "\n"
        )
    return directory


def test_every_category_becomes_one_of_the_ten_values():
    assert len(CATEGORIES) == 20 and set(CATEGORIES.values()) == set(VALUES)
    told = describe_mapping()
    assert "\n" not in told and all(label in told for label in CATEGORIES)
    assert "Power: dominance + Power: resources + Face -> +Power" in told


def test_valueeval_reads_quotes_as_text_and_marks_as_plus_one(tmp_path):
    train, test = read_valueeval(write_valueeval(tmp_path))
    assert (train.split, test.split) == ("train", "test")
    assert train.answer == '"quoted, not a csv.' and train.question == "We should"
    np.testing.assert_array_equal(train.value, np.eye(10)[VALUES.index("Self-Direction")])


def test_valueeval_names_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="arguments-training.tsv does not exist"):
        read_valueeval(tmp_path)
    with pytest.raises(UserError, match="labels-training.tsv line 2: 20 fields, expected 21"):
        read_valueeval(write_valueeval(tmp_path, labels=("A1", *["0"] * 19)))
    with pytest.raises(UserError, match="arguments-training.tsv line 2: argument 'A1' has no labels"):
        read_valueeval(write_valueeval(tmp_path, labels=("A2", *["0"] * 20)))


def test_valueeval_has_a_training_row_for_each_example_of_a_value(tmp_path):
    path = write_valueeval(tmp_path) / "value-categories.json"
    path.write_text(json.dumps({"Tradition": {"Be humble": ["allowing for modesty", "less boasting"]}}))
    rows = read_valueeval(tmp_path)[2:]
    assert [row.answer for row in rows] == ["Be humble", "allowing for modesty", "less boasting"]
    assert all(row.question == "Be humble" and row.split == "train" for row in rows)
    np.testing.assert_array_equal(rows[0].value, np.eye(10)[VALUES.index("Tradition")])
    path.write_text('{"Traditions": {}}')
    with pytest.raises(UserError, match="value-categories.json: 'Traditions' is none of the 20 value categories"):
        read_valueeval(tmp_path)
    path.write_text("{\n,}")
    with pytest.raises(UserError, match="value-categories.json line 2: not JSON"):
        read_valueeval(tmp_path)


def test_valuebench_has_a_row_an_answer_without_emoji(tmp_path):
    answers = {"one": "\U0001f914 Yes, do.", "two": "No.", "three": "No."}
    (tmp_path / "llm_answers_rated.jsonl").write_text(json.dumps({"question": "Should I?", "answers": answers}) + "\n")
    assert [row.answer for row in read_valuebench(tmp_path)] == ["Yes, do.", "No."]
    (tmp_path / "llm_answers_rated.jsonl").write_text('{"question": "Should I?", "answers": ["No."]}\n')
    with pytest.raises(UserError, match="line 1: field 'answers' is list, expected an object"):
        read_valuebench(tmp_path)


def test_truthfulqa_scores_are_truthful_then_informative(tmp_path):
    rows = [
        {"question": "q", "answer": "No comment.", "truthful": "yes", "informative": "no"},
        {"question": "q", "answer": "", "truthful": "yes", "informative": "no"},
    ]
    path = tmp_path / "judge_first600.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (row,) = read_truthfulqa(tmp_path)
    assert row.scores.tolist() == [1.0, 0.0]
    path.write_text(json.dumps(rows[0] | {"truthful": "perhaps"}) + "\n")
    with pytest.raises(UserError, match="line 1: field 'truthful' is 'perhaps'"):
        read_truthfulqa(tmp_path)


def test_counts_of_the_data_sets(shared):
    rows = read_valueeval(shared / "data/valueeval23")
    # 54 values with 218 examples beside the arguments
    assert [sum(row.split == split for row in rows) for split in ("train", "test")] == [5393 + 54 + 218, 1896]
    share = np.stack([row.value for row in rows]).mean(axis=0)
    assert VALUES[share.argmax()] in ("Security", "Universalism") and share.min() > 0.02
    bench = read_valuebench(shared / "data/valuebench")
    assert len({row.question for row in bench}) == 1666 and 8000 < len(bench) <= 9740
    truth = read_truthfulqa(shared / "data/truthfulqa")
    scores = [tuple(row.scores) for row in truth]
    assert len({row.question for row in truth}) == 598 and 7500 < scores.count((0, 1)) <= 7575
