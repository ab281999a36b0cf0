"""Read the ten values of a text: -1 works against a value, 0 does not express it, 1 is strongly for it.

visa-jax detect --workdir=runs/quickstart/detector --text="green walls . always choose mastery ." [--json]

The workdir holds a detector, or a VISA run, whose detector is taken; either may be a Hugging Face classifier whose
classes are the ten values (docs/visa.md), or be trained from one (docs/real_models.md).
"""

import json
import sys

import numpy as np
from absl import flags

from visa_jax.cli.flags import define_workdir
from visa_jax.cli.main import run
from visa_jax.cli.rewards import is_huggingface, open_detector, reads_texts
from visa_jax.cli.runs import Run, open_run, reward_and_judge, run_kind
from visa_jax.cli.sources import DataConfig, make_source
from visa_jax.cli.texts import check_text, read_text, warn_unknown
from visa_jax.config import from_config_dict
from visa_jax.evaluation.run import make_readers
from visa_jax.models.hub import local_directory
from visa_jax.training.roles import RoleConfig, role_functions
from visa_jax.types import VALUES


def define_flags(values: flags.FlagValues) -> None:
    define_workdir(values, "a detector (of ours, a Hugging Face directory or a hub name) or a VISA run")
    flags.DEFINE_string("text", None, "the text to read", flag_values=values, required=True)
    flags.DEFINE_bool("json", False, "print JSON", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    text = read_text("--text", values.text)
    field, made_by = "--workdir", "visa-jax supervise"
    directory = local_directory(values.workdir, field, made_by)
    if not is_huggingface(directory):
        found = open_run(directory, field, ("detector", "visa"))
        if run_kind(found.config) == "visa":
            field = f"{directory}/config.json: runs.detector"
            directory = local_directory(found.config.runs.detector, field, made_by)
    if reads_texts(directory):
        vector, unknown = open_detector(directory, field)([text])[0], []
    else:
        vector, unknown = read_by_run(open_run(directory, field, "detector"), text)
    if values.json:
        print(json.dumps({"text": text, "values": by_name(vector), "unknown_words": unknown}))
    else:
        print("\n".join(f"{name:<15} {level:+.2f}" for name, level in zip(VALUES, vector, strict=True)))
    return 0


def read_by_run(found: Run, text: str) -> tuple[np.ndarray, list[str]]:
    """(values [10], words that the model does not know) of a text by a detector run."""
    where = f"{found.workdir}/config.json"
    source = make_source(from_config_dict(DataConfig, found.config.data, f"{where}: data"))
    role = from_config_dict(RoleConfig, found.config.role, f"{where}: role")
    unknown = check_text("--text", text, source.tokenizer, source.lengths.text)
    warn_unknown("--text", unknown)
    readers = make_readers(source, role_functions(source, role)["detector"], None, None, batch_size=1)
    return readers.values(reward_and_judge(found)[0], [text])[0], unknown


def by_name(vector: np.ndarray) -> dict[str, float]:
    """A value vector [10] by the names of the values."""
    return {name: round(float(level), 4) for name, level in zip(VALUES, vector, strict=True)}


if __name__ == "__main__":
    sys.exit(run(["detect", *sys.argv[1:]]))
