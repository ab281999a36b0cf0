"""ValueBench (Ren et al. 2024): advice questions from psychometric inventories, answered by five language models."""

import unicodedata
from pathlib import Path

from visa_jax.config import UserError
from visa_jax.data.sources.records import TextRow, json_records, take, take_text

FILE = "llm_answers_rated.jsonl"


def read_valuebench(path: str | Path) -> list[TextRow]:
    """A row for each different answer to each question; emoji are left out.

    Args:
      path: the data set's directory, or its file ``llm_answers_rated.jsonl``.

    Raises:
      UserError: naming the file, the line and the field.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    rows, seen = [], set()
    for place, record in json_records(path):
        question, answers = take_text(place, record, "question"), take(place, record, "answers")
        if not isinstance(answers, dict):
            raise UserError(f"{place}: field 'answers' is {type(answers).__name__}, expected an object")
        for writer in answers:
            answer = _without_emoji(take_text(f"{place}: answers", answers, writer))
            if answer and (question, answer) not in seen:
                seen.add((question, answer))
                rows.append(TextRow(question, answer, f"{place} ({writer})"))
    return rows


def _without_emoji(text: str) -> str:
    kept = "".join(c for c in text if unicodedata.category(c) not in ("So", "Sk", "Cf", "Mn", "Co", "Cn"))
    return kept.strip()
