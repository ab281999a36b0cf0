"""Turn a run into a Hugging Face directory, or a Hugging Face directory into a run.

visa-jax convert --model=runs/quickstart/base --out=exported --dtype=bfloat16
visa-jax convert --model=DIR --out=runs/qwen && visa-jax convert --model=runs/qwen --out=DIR2
visa-jax convert --model=runs/visa --out=adapter --adapters     # of a run that trained adapters: a directory of PEFT

Which way follows from what --model is. Of runs those that write text can go out (base, visa_sft, moc_sft, visa, moc)
where a family of decoders is like them; transformers and `visa-jax generate` open what is written. So can detectors,
analyzers and reward models that started from a published model: as ...ForSequenceClassification. Adapters are merged
into the base as it was computed with, a quantised one into what its levels stand for. A Hugging Face
directory becomes a run of 'pretrained': params/ as all runs have it, tokenizer/, and in huggingface/ its config.json
and generation_config.json as they were. On the way back its weights are bitwise what they were.
"""

import sys
from pathlib import Path

from absl import flags

from visa_jax.cli.decoders import base_of, open_written, read_written
from visa_jax.cli.generate import WRITERS
from visa_jax.cli.main import run
from visa_jax.cli.runs import (
    HUGGINGFACE,
    PRETRAINED,
    Run,
    open_pretrained_run,
    open_run,
    reward_and_judge,
    run_kind,
    save_pretrained_run,
)
from visa_jax.cli.sources import DataConfig, make_source
from visa_jax.config import UserError, from_config_dict, load_config
from visa_jax.data.source import Source
from visa_jax.models import load_pretrained, save_pretrained
from visa_jax.models.classifiers import save_classifier
from visa_jax.models.hf import read_family, special_ids
from visa_jax.models.hub import local_directory
from visa_jax.models.peft import save_adapters
from visa_jax.models.weights import open_weights
from visa_jax.training.reading import READING

DTYPES = ("float32", "bfloat16", "float16")


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("model", None, "a run, a Hugging Face directory or hub name", flag_values=values, required=True)
    flags.DEFINE_string("out", None, "directory to write; must not be there yet", flag_values=values, required=True)
    help_text = "of the weights written; default: as they were, float32 for our own runs"
    flags.DEFINE_enum("dtype", None, DTYPES, help_text, flag_values=values)
    flags.DEFINE_bool("adapters", False, "of a run: its adapters alone, as PEFT keeps them", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    out = Path(values.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} is there already")
    directory = local_directory(values.model, "--model")
    config = load_config(directory)
    ours = "model_type" not in config and run_kind(config) != PRETRAINED
    if values.adapters and not ours:
        raise UserError(f"--adapters: {directory} holds a Hugging Face model, which has none")
    if "model_type" in config:
        _import(directory, out, values.dtype)
    elif not ours:
        model, tokenizer, dtype = open_pretrained_run(directory, "--model")
        choices = dict(dtype=values.dtype or dtype, family=model.family)
        ids = dict(end_ids=model.end_ids, pad_id=model.pad_id)
        save_pretrained(out, model.params, model.config, tokenizer, **choices, **ids)
    else:
        readers = tuple(READING) if (directory / HUGGINGFACE).is_dir() else ()  # the small ones are of no family
        found = open_run(directory, "--model", (*WRITERS, PRETRAINED, *readers), made_by="visa-jax train or supervise")
        export = _export_adapters if values.adapters else _export_reader if _reads(found) else _export
        try:
            export(found, out, values.dtype or "float32")
        except UserError as error:
            raise UserError(f"--model: {directory}: {error}") from None
    print(out)
    return 0


def _source(found: Run) -> Source:
    return make_source(from_config_dict(DataConfig, found.config.data, "config.json: data"))


def _export(found: Run, out: Path, dtype: str) -> None:
    """A run as a Hugging Face directory, of the family that it started from if it did."""
    source = _source(found)
    opened = open_written(found, source, merged=True)
    choices = dict(dtype=dtype)
    if opened.huggingface is not None:
        _, pad = special_ids(opened.huggingface)
        choices |= dict(family=read_family(opened.huggingface), end_ids=opened.end_ids, pad_id=pad)
    save_pretrained(out, opened.params, opened.config, source.tokenizer, **choices)


def _export_reader(found: Run, out: Path, dtype: str) -> None:
    """A detector, analyzer or reward model as a classifier; of twins the one that rewards."""
    save_classifier(out, found.workdir / HUGGINGFACE, reward_and_judge(found)[0], found.tokenizer, dtype=dtype)


def _reads(found: Run) -> bool:
    return run_kind(found.config) in READING


def _export_adapters(found: Run, out: Path, dtype: str) -> None:
    """The adapters of a run as a directory of PEFT, float32 as they were trained."""
    if _reads(found):
        raise UserError("--adapters: it was trained as a whole")
    config, policy, _ = read_written(found, _source(found))
    if not policy.lora:
        raise UserError("--adapters: it was trained as a whole (config.policy.lora_rank = 0)")
    if dtype != "float32":
        raise UserError("--dtype: adapters are written as float32")
    save_adapters(out, found.params, policy.lora, config, base=base_of(found))


def _import(directory: Path, out: Path, dtype: str | None) -> None:
    """A Hugging Face directory as a run; float16 is kept as float32, which holds it exactly."""
    if dtype is None:
        with open_weights(directory) as weights:
            found = {weights.dtype(name).name for name in weights.names}
        dtype = found.pop() if len(found) == 1 else "float32"
    if dtype not in DTYPES:
        raise UserError(f"--model: {directory} has weights of type {dtype}, expected one of {', '.join(DTYPES)}")
    param_dtype = "bfloat16" if dtype == "bfloat16" else "float32"
    model, tokenizer = load_pretrained(directory, param_dtype=param_dtype)
    save_pretrained_run(out, directory, model.params, tokenizer, dtype)


if __name__ == "__main__":
    sys.exit(run(["convert", *sys.argv[1:]]))
