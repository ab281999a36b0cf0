"""TruthfulQA's judge rows (Lin et al. 2022): answers labelled truthful or not and informative or not.

Two objectives that conflict: "I have no comment." is truthful and tells nothing.
"""

from pathlib import Path

import numpy as np

from visa_jax.data.sources.records import TextRow, json_records, take, take_number, take_text

FILE = "judge_first600.jsonl"
OBJECTIVES = ("truthful", "informative")


def read_truthfulqa(path: str | Path) -> list[TextRow]:
    """A row for each answer that is not empty, with scores (truthful, informative), yes = 1 and no = 0.

    Args:
      path: the data set's directory, or its file of rows.

    Raises:
      UserError: naming the file, the line and the field.
    """
    path = Path(path)
    rows = []
    for place, record in json_records(path / FILE if path.is_dir() else path):
        question = take_text(place, record, "question")
        scores = np.array([take_number(place, record, name) for name in OBJECTIVES], np.float32)
        if take(place, record, "answer") != "":
            rows.append(TextRow(question, take_text(place, record, "answer"), place, scores=scores))
    return rows
