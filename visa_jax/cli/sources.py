"""Which text a run works on: the embedded testbed, or the user's own file."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from visa_jax.cli.rewards import MADE_BY, open_detector, reads_texts
from visa_jax.cli.runs import open_run, reward_and_judge
from visa_jax.config import UserError, from_config_dict, require
from visa_jax.data.source import Source, make_testbed_source
from visa_jax.data.sources.body import Body, SizeConfig, make_body, normalize_rows
from visa_jax.data.sources.records import TextRow
from visa_jax.data.sources.table import FieldConfig, read_table
from visa_jax.data.sources.texts import make_text_source
from visa_jax.data.sources.tokens import TokenizerConfig, open_tokenizer
from visa_jax.data.sources.truthfulqa import read_truthfulqa
from visa_jax.data.sources.valuebench import read_valuebench
from visa_jax.data.sources.valueeval import describe_mapping, read_valueeval
from visa_jax.data.template import TEMPLATES, make_template
from visa_jax.evaluation.run import make_readers
from visa_jax.models.hub import local_directory
from visa_jax.training.roles import RoleConfig, role_functions

READERS = {"valuebench": read_valuebench, "valueeval": read_valueeval, "truthfulqa": read_truthfulqa}
BLOCKS = 8  # in which a quick try reads a file
FORMATS = ("table", *READERS)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The testbed of ``seed``, unless ``path`` names a file of the user's own rows (then the seed splits them)."""

    seed: int = 0
    path: str = ""  # FILE.jsonl, .csv or .tsv; for the other formats a directory
    format: str = "table"  # table | valuebench | valueeval | truthfulqa
    value_path: str = ""  # a second file whose texts carry the value labels; "" = those of path
    value_format: str = "table"
    value_run: str = ""  # a detector that reads the values of texts without labels (SFT's targets): run or classifier
    fields: FieldConfig = FieldConfig()
    sizes: SizeConfig = SizeConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    template: str = "levels"  # levels: prompts in special tokens | json: in plain words, for published models
    chat: bool = False  # json as the user's turn of the tokenizer's chat template
    test_share: float = 0.1  # of the questions
    most_rows: int = 0  # of a file, from all over it, for a quick try; 0 = all

    def __post_init__(self):
        require(self.format in FORMATS, "format", f"{self.format!r} is not one of {', '.join(FORMATS)}")
        require(
            self.value_format in FORMATS, "value_format", f"{self.value_format!r} is not one of {', '.join(FORMATS)}"
        )
        require(self.template in TEMPLATES, "template", f"{self.template!r} is not one of {', '.join(TEMPLATES)}")
        require(not self.chat or self.template == "json", "chat", "needs template = json")
        require(self.path or self.template == "levels", "template", "is for files, the testbed knows levels alone")
        require(0 < self.test_share < 1, "test_share", "must be in (0, 1)")
        require(self.most_rows >= 0, "most_rows", "must be >= 0")
        require(bool(self.path) or not (self.value_path or self.value_run), "path", "is empty: the testbed is labelled")


def make_source(config: DataConfig) -> Source:
    """The source that a config names; of a file, what was kept and left out is told on stderr."""
    return read_source(config) if config.path else make_testbed_source(config.seed)


def read_source(config: DataConfig) -> Source:
    """The source of the user's own file or files.

    Raises:
      UserError: a file or a row that cannot be read (file, line, field), or one that must not be dropped.
    """
    rows = _read(config, config.path, config.format)
    labelled = _read(config, config.value_path, config.value_format) if config.value_path else []
    everything = [text for row in (*rows, *labelled) for text in (row.question, row.answer)]
    where = config.tokenizer.directory and str(
        local_directory(config.tokenizer.directory, "config.data.tokenizer.directory", weights=False)
    )
    tokenizer = open_tokenizer(dataclasses.replace(config.tokenizer, directory=where), everything, config.template)
    if config.chat and not tokenizer.chat_template:
        raise UserError("config.data.chat: the tokenizer of config.data.tokenizer.directory has no chat template")
    template = make_template(config.template, tokenizer, config.chat)

    def body(path: str, rows: list[TextRow]) -> Body:
        return make_body(path, rows, tokenizer, config.sizes, seed=config.seed, test_share=config.test_share)

    texts = body(config.path, rows)
    values = body(config.value_path, labelled) if labelled else None
    for told in (texts.told, values and values.told):
        _tell(told)
    if "valueeval" in (config.format, config.value_path and config.value_format):
        _tell(f"labels to values: {describe_mapping()}")
    args = (Path(config.path).stem, texts, values, tokenizer, config.sizes)
    bare = make_text_source(*args, template=template)
    if not config.value_run:
        return bare
    return make_text_source(*args, _make_label_fn(config.value_run, bare), template=template)


def _read(config: DataConfig, path: str, kind: str) -> list[TextRow]:
    rows = read_table(path, config.fields) if kind == "table" else READERS[kind](path)
    if not rows:
        raise UserError(f"{path}: holds no row")
    return normalize_rows(_spread(rows, config.most_rows))


def _spread(rows: list[TextRow], most: int) -> list[TextRow]:
    """At most ``most`` rows (0 = all), in eight blocks over the file: a fixed split lies anywhere in it."""
    if not 1 < most < len(rows):
        return rows
    size = -(-most // BLOCKS)
    starts = np.linspace(0, len(rows) - size, BLOCKS).astype(int)
    places = sorted({start + i for start in starts.tolist() for i in range(size)})
    return [rows[place] for place in places[:most]]


def _make_label_fn(value_run: str, source: Source) -> Callable[[list[str]], np.ndarray]:
    """Texts -> values [n, 10] by the rewarding detector of a run, opened when it is first asked."""

    def label(texts: list[str]) -> np.ndarray:
        field = "config.data.value_run"
        where = local_directory(value_run, field, MADE_BY)
        if reads_texts(where):
            return open_detector(where, field)(texts)
        found = open_run(where, field, "detector")
        role = from_config_dict(RoleConfig, found.config.role, f"{where}/config.json: role")
        detect = role_functions(source, role)["detector"]
        return make_readers(source, detect, None, None).values(reward_and_judge(found)[0], texts)

    return label


def _tell(line: Any) -> None:
    if line:
        print(f"data: {line}", file=sys.stderr)
