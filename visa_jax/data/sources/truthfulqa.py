"""TruthfulQA's judge rows (Lin et al. 2022): answers labelled truthful or not and informative or not.

Two objectives that conflict: "I have no comment." is truthful and tells nothing.
"""

from pathlib import Path

from visa_jax.data.sources.records import TextRow
from visa_jax.data.sources.table import FieldConfig, read_table

FILE = "judge_first600.jsonl"
OBJECTIVES = ("truthful", "informative")


def read_truthfulqa(path: str | Path) -> list[TextRow]:
    """A row for each answer with scores (truthful, informative), yes = 1 and no = 0.

    Args:
      path: the data set's directory, or its file of rows.
    """
    path = Path(path)
    return read_table(path / FILE if path.is_dir() else path, FieldConfig(rewards=OBJECTIVES))
