"""Turn a run into a Hugging Face directory, or a Hugging Face directory into a run.

visa-jax convert --model=runs/quickstart/base --out=exported --dtype=bfloat16
visa-jax convert --model=DIR --out=runs/qwen && visa-jax convert --model=runs/qwen --out=DIR2

Which way follows from what --model is. Of runs those that write text can go out (base, visa_sft, moc_sft, visa, moc)
where a family of decoders is like them; transformers and `visa-jax generate` open what is written. A Hugging Face
directory becomes a run of 'pretrained': params/ as all runs have it, tokenizer/, and in huggingface/ its config.json
and generation_config.json as they were. On the way back its weights are bitwise what they were.
"""

import sys
from pathlib import Path

from absl import flags

from visa_jax.cli.generate import WRITERS, run_decoder
from visa_jax.cli.main import run
from visa_jax.cli.runs import PRETRAINED, open_pretrained_run, open_run, run_kind, save_pretrained_run
from visa_jax.config import UserError, load_config
from visa_jax.models import load_pretrained, save_pretrained
from visa_jax.models.weights import open_weights

DTYPES = ("float32", "bfloat16", "float16")


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("model", None, "a run or a Hugging Face directory", flag_values=values, required=True)
    flags.DEFINE_string("out", None, "directory to write; must not be there yet", flag_values=values, required=True)
    help_text = "of the weights written; default: as they were, float32 for our own runs"
    flags.DEFINE_enum("dtype", None, DTYPES, help_text, flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    directory, out = Path(values.model), Path(values.out)
    if not directory.is_dir():
        raise UserError(f"--model: {directory} does not exist")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} is there already")
    config = load_config(directory)
    if "model_type" in config:
        _import(directory, out, values.dtype)
    elif run_kind(config) == PRETRAINED:
        model, tokenizer, dtype = open_pretrained_run(directory, "--model")
        choices = dict(dtype=values.dtype or dtype, family=model.family)
        ids = dict(end_ids=model.end_ids, pad_id=model.pad_id)
        save_pretrained(out, model.params, model.config, tokenizer, **choices, **ids)
    else:
        found = open_run(directory, "--model", (*WRITERS, PRETRAINED), made_by="visa-jax train or supervise")
        decoder, source, _ = run_decoder(found)
        try:
            save_pretrained(out, found.params, decoder, source.tokenizer, dtype=values.dtype or "float32")
        except UserError as error:
            raise UserError(f"--model: {directory}: {error}") from None
    print(out)
    return 0


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
