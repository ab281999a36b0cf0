"""What a reader of a file yields, and how it refuses a row: one line with file, line and field."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from visa_jax.config import UserError, suggestion
from visa_jax.types import VALUES


class TextRow(NamedTuple):
    """A question, an answer, and the labels that the file has for it."""

    question: str
    answer: str
    place: str  # "FILE line 3", for messages
    value: np.ndarray | None = None  # float32 [10] in [-1, 1]
    scores: np.ndarray | None = None  # float32 [K], one entry an objective
    split: str = ""  # "train" or "test" where the data set says so, else the question decides


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file without their ends. UserError naming the file where it cannot be read."""
    if path.is_dir():
        raise UserError(f"config.data: {path} is a directory, expected a file")
    try:
        return path.read_text(encoding="utf-8").removeprefix("\ufeff").split("\n")
    except FileNotFoundError:
        raise UserError(f"config.data: {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None


def json_records(path: Path) -> Iterator[tuple[str, dict]]:
    """(place, object) of each line that is not empty."""
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{place}: not JSON ({error.msg} at character {error.pos + 1})") from None
        if not isinstance(record, dict):
            raise UserError(f"{place}: expected a JSON object, got {type(record).__name__}")
        yield place, record


def take(place: str, record: dict, field: str) -> Any:
    """A field that must be there."""
    if field not in record or record[field] is None:
        raise UserError(
            f"{place}: field {field!r} is missing{suggestion(field, [name for name in record if name != field])}"
        )
    return record[field]


def take_text(place: str, record: dict, field: str, *, empty: bool = False) -> str:
    """A field that must hold text, and some unless ``empty``."""
    text = take(place, record, field)
    if not isinstance(text, str):
        raise UserError(f"{place}: field {field!r} is {type(text).__name__}, expected text")
    if not text.strip() and not empty:
        raise UserError(f"{place}: field {field!r} is empty")
    return text


def take_number(place: str, record: dict, field: str) -> float:
    """A field that must hold a finite number, or yes / no / true / false for 1 and 0."""
    given = take(place, record, field)
    word = given.strip().lower() if isinstance(given, str) else given
    if word in ("yes", "true", True):
        return 1.0
    if word in ("no", "false", False):
        return 0.0
    try:
        number = float(word)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise UserError(f"{place}: field {field!r} is {given!r}, expected a number, yes or no")
    return number


def take_values(place: str, record: dict, field: str) -> np.ndarray:
    """Value labels float32 [10]: {"Security": 0.5, ...} (others 0), or a list of ten; as JSON text in csv and tsv."""
    given = take(place, record, field)
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except json.JSONDecodeError as error:
            raise UserError(f"{place}: field {field!r} is not JSON ({error.msg})") from None
    if isinstance(given, dict):
        for name in given:
            if name not in VALUES:
                raise UserError(f"{place}: field {field!r}: no value is called {name!r}{suggestion(name, VALUES)}")
        given = [given.get(name, 0.0) for name in VALUES]
    if not isinstance(given, list) or len(given) != len(VALUES):
        raise UserError(f"{place}: field {field!r} is neither an object of value names nor a list of {len(VALUES)}")
    for name, level in zip(VALUES, given, strict=True):
        if isinstance(level, bool) or not isinstance(level, int | float) or not -1 <= level <= 1:
            raise UserError(f"{place}: field {field!r}: {name} is {level!r}, expected a number in [-1, 1]")
    return np.array(given, np.float32)
