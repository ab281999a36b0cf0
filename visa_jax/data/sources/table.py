"""JSON lines, csv and tsv: a row a line, its fields named in the config."""

import csv
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from visa_jax.config import UserError, require
from visa_jax.data.sources.records import (
    TextRow,
    json_records,
    read_lines,
    take_number,
    take_text,
    take_values,
)


@dataclasses.dataclass(frozen=True)
class FieldConfig:
    """Which field of a row holds what; "" = the file has none."""

    question: str = "question"
    answer: str = "answer"
    values: str = ""  # {"Security": 0.5, ...} or ten numbers in [-1, 1]; rows may leave it out
    rewards: tuple[str, ...] = ()  # one field an objective: a number, yes or no

    def __post_init__(self):
        require(self.answer != "", "answer", "is empty: every row needs a text")


def read_table(path: str | Path, fields: FieldConfig) -> list[TextRow]:
    """The rows of a .jsonl, .csv or .tsv file, in its order.

    A row without the ``values`` field (or with null) has no value labels; every other field must be there.

    Raises:
      UserError: naming the file, the line and the field.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        records = _separated(path, "," if suffix == ".csv" else "\t")
    elif suffix in (".jsonl", ".json", ".ndjson"):
        records = json_records(path)
    else:
        raise UserError(f"config.data.path: {path} is none of .jsonl, .csv, .tsv; name its kind by config.data.format")
    rows = [_row(place, record, fields) for place, record in records]
    if not rows:
        raise UserError(f"{path}: holds no row")
    return rows


def _row(place: str, record: dict, fields: FieldConfig) -> TextRow:
    labelled = fields.values and record.get(fields.values) not in (None, "")
    scores = [take_number(place, record, name) for name in fields.rewards]
    return TextRow(
        question=take_text(place, record, fields.question, empty=True) if fields.question else "",
        answer=take_text(place, record, fields.answer),
        place=place,
        value=take_values(place, record, fields.values) if labelled else None,
        scores=np.array(scores, np.float32) if scores else None,
    )


def _separated(path: Path, separator: str) -> Iterator[tuple[str, dict]]:
    """(place, {column: text}) of each line below the header; quotes as in RFC 4180."""
    reader = csv.reader(io.StringIO("\n".join(read_lines(path))), delimiter=separator)
    try:
        header = next(reader, None)
        if not header:
            raise UserError(f"{path} line 1: no header")
        for cells in reader:
            place = f"{path} line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(f"{place}: {len(cells)} fields, the header has {len(header)}")
            yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: {error}") from None
