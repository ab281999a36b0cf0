"""ValueEval'23 (Kiesel et al., Mirzakhmedova et al.): arguments labelled with 20 categories of Schwartz's values.

The labels say that an argument resorts to a value, not on which side: each becomes level +1 of one of the ten values.
"""

import json
from pathlib import Path

import numpy as np

from visa_jax.config import UserError
from visa_jax.data.sources.records import TextRow, read_lines
from visa_jax.types import VALUES

# The refined theory's categories by the original ten. Face and Humility are no part of one of them: Face ("saving
# face, reputation") lies beside Power, Humility ("being humble") was an item of Tradition [ours].
CATEGORIES = {
    "Self-direction: thought": "Self-Direction",
    "Self-direction: action": "Self-Direction",
    "Stimulation": "Stimulation",
    "Hedonism": "Hedonism",
    "Achievement": "Achievement",
    "Power: dominance": "Power",
    "Power: resources": "Power",
    "Face": "Power",
    "Security: personal": "Security",
    "Security: societal": "Security",
    "Tradition": "Tradition",
    "Conformity: rules": "Conformity",
    "Conformity: interpersonal": "Conformity",
    "Humility": "Tradition",
    "Benevolence: caring": "Benevolence",
    "Benevolence: dependability": "Benevolence",
    "Universalism: concern": "Universalism",
    "Universalism: nature": "Universalism",
    "Universalism: tolerance": "Universalism",
    "Universalism: objectivity": "Universalism",
}
SPLITS = {"training": "train", "validation": "test"}


def read_valueeval(path: str | Path) -> list[TextRow]:
    """A row for each argument: its conclusion as the question, its premise as the text, presence labels of the ten.

    Args:
      path: the directory with ``arguments-{training,validation}.tsv`` and ``labels-...``; validation is the test split.
        The examples of ``value-categories.json``, if it is there, are training rows too.

    Raises:
      UserError: naming the file and the line.
    """
    path = Path(path)
    rows = []
    for name, split in SPLITS.items():
        _, arguments = _cells(path / f"arguments-{name}.tsv", 4)
        header, labels = _cells(path / f"labels-{name}.tsv", 1 + len(CATEGORIES))
        columns = [VALUES.index(_category(f"{path / f'labels-{name}.tsv'} line 1", label)) for label in header[1:]]
        by_id = {cells[0]: cells[1:] for _, cells in labels}
        for place, (number, conclusion, _, premise) in arguments:
            if number not in by_id:
                raise UserError(f"{place}: argument {number!r} has no labels in labels-{name}.tsv")
            value = np.zeros(len(VALUES), np.float32)
            value[[column for column, mark in zip(columns, by_id[number], strict=True) if mark == "1"]] = 1.0
            rows.append(TextRow(conclusion, premise, place, value=value, split=split))
    return rows + _examples(path / "value-categories.json")


def _examples(path: Path) -> list[TextRow]:
    """Training rows of the data set's own definitions: the effects that its authors list under each of 54 values.

    Arguments tell of many values at once; these short texts tell of one, in the words that belong to it.
    """
    if not path.is_file():
        return []
    try:
        categories = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: not JSON ({error.msg})") from None
    rows = []
    for category, values in categories.items():
        value = np.zeros(len(VALUES), np.float32)
        value[VALUES.index(_category(str(path), category))] = 1.0
        rows += [
            TextRow(name, example, f"{path}: {name}", value=value, split="train")
            for name, examples in values.items()
            for example in (name, *examples)
        ]
    return rows


def describe_mapping() -> str:
    """One line: which categories become which value."""
    parts = {value: [label for label, to in CATEGORIES.items() if to == value] for value in VALUES}
    return "; ".join(f"{' + '.join(labels)} -> +{value}" for value, labels in parts.items())


def _category(place: str, label: str) -> str:
    if label not in CATEGORIES:
        raise UserError(f"{place}: {label!r} is none of the 20 value categories")
    return CATEGORIES[label]


def _cells(path: Path, columns: int) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(header, [(place, cells)]) of a file that is split at tabs and knows no quotes."""
    lines = [(f"{path} line {i}", line.rstrip("\r").split("\t")) for i, line in enumerate(read_lines(path), 1) if line]
    for place, cells in lines:
        if len(cells) != columns:
            raise UserError(f"{place}: {len(cells)} fields, expected {columns}")
    if not lines:
        raise UserError(f"{path}: is empty")
    return lines[0][1], lines[1:]
