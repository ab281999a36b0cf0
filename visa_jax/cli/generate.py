"""Complete a prompt with any Hugging Face directory of a decoder, or with any run that writes text.

visa-jax generate --model=DIR --prompt="Once upon a time" --temperature=0 --max_new_tokens=200 [--json]
visa-jax generate --model=runs/quickstart/moc --prompt="what about the archive ?" --preference=0.3,0.7
visa-jax generate --model=DIR --prompt="What is fair?" --chat     # the prompt as a user's turn of the chat template
visa-jax generate --model=DIR --prompt="1. salt" --stop="3." --stop="The end"    # the text ends before either string

A stop string is looked for in the completion as it is printed, may begin and end within tokens, and is not printed
itself. What is printed is the prompt with its completion, with --chat the completion alone. A run is given the form of
prompt that it was trained on; a rewriter is better asked by `visa-jax rewrite`, here its prompt is taken as it stands.
"""

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from visa_jax.cli.decoders import open_written
from visa_jax.cli.flags import LAST_SEED, UsageError
from visa_jax.cli.main import run
from visa_jax.cli.runs import PRETRAINED, open_pretrained_run, open_run, run_kind
from visa_jax.cli.sources import DataConfig, make_source
from visa_jax.cli.texts import check_text, read_text, warn_unknown
from visa_jax.config import UserError, from_config_dict, load_config
from visa_jax.data.template import Template
from visa_jax.data.tokenizer import before_stop, decode_batch, pad_id
from visa_jax.evaluation.queue import complete
from visa_jax.models import DecoderConfig, load_pretrained, make_decoder
from visa_jax.models.cache import KV_CACHE_DTYPES
from visa_jax.models.hub import local_directory
from visa_jax.types import EndId, LanguageModel, Params

WRITERS = ("base", "visa_sft", "moc_sft", "visa", "moc")
STEERED = ("moc_sft", "moc")
REWRITERS = ("visa_sft", "visa")


class Writer(NamedTuple):
    """A model with one prompt, ready to go on from it."""

    lm: LanguageModel
    params: Params
    ids: list[int]  # of the whole prompt as the model sees it
    window: int
    end_id: EndId
    pad_id: int
    write: Callable[[list[int]], tuple[str, str]]  # completion ids -> (prompt with completion, completion)


def define_flags(values: flags.FlagValues) -> None:
    bound = dict(flag_values=values, lower_bound=0.0)
    flags.DEFINE_string(
        "model", None, "a Hugging Face directory or hub name, or a run", flag_values=values, required=True
    )
    flags.DEFINE_string("prompt", "", "text to go on from; may be empty for a Hugging Face model", flag_values=values)
    flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest token", flag_values=values, lower_bound=0.0)
    flags.DEFINE_integer("max_new_tokens", 200, "most tokens to draw", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("top_k", 0, "draw among the k likeliest; 0 = all", flag_values=values, lower_bound=0)
    flags.DEFINE_float("top_p", 1.0, "draw among the likeliest with this mass, in (0, 1]", flag_values=values)
    flags.DEFINE_float("min_p", 0.0, "draw among tokens with this share of the likeliest's probability", **bound)
    flags.DEFINE_float("repetition_penalty", 1.0, "above 1: tokens that are there already are less likely", **bound)
    flags.DEFINE_multi_string("stop", [], "end before this string; may be given several times", flag_values=values)
    flags.DEFINE_enum("kv_cache_dtype", "auto", KV_CACHE_DTYPES, "of cached keys and values", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of the drawing", flag_values=values, lower_bound=0, upper_bound=LAST_SEED)
    flags.DEFINE_list("preference", None, "of a MOC run: numbers that sum to 1, as 0.3,0.7", flag_values=values)
    flags.DEFINE_bool("chat", False, "use the chat template of a Hugging Face model's tokenizer", flag_values=values)
    flags.DEFINE_bool("json", False, "print JSON", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    if not math.isfinite(values.temperature):
        raise UsageError(f"--temperature={values.temperature}: expected a number of at least 0")
    if not 0 < values.top_p <= 1:
        raise UsageError(f"--top_p={values.top_p}: expected a number in (0, 1]")
    if values.min_p > 1 or math.isnan(values.min_p):
        raise UsageError(f"--min_p={values.min_p}: expected a number in [0, 1]")
    if not 0 < values.repetition_penalty < math.inf:
        raise UsageError(f"--repetition_penalty={values.repetition_penalty}: expected a number above 0")
    if "" in values.stop:
        raise UsageError("--stop: is empty, which stands everywhere")
    preference = None if values.preference is None else read_preference(values.preference)
    writer = open_writer(local_directory(values.model, "--model"), values.prompt, preference, values.chat)
    room = _check_room(writer.ids, writer.window)
    drawn, finish = complete(
        writer.lm,
        writer.params,
        writer.ids,
        jax.random.key(values.seed),
        max_new_tokens=min(values.max_new_tokens, room),
        temperature=values.temperature,
        top_k=values.top_k,
        top_p=values.top_p,
        min_p=values.min_p,
        repetition_penalty=values.repetition_penalty,
        kv_cache_dtype=values.kv_cache_dtype,
        end_id=writer.end_id,
        pad_id=writer.pad_id,
        condition=preference or (),
        stop=values.stop,
        read_fn=lambda ids: writer.write(ids)[1],
    )
    text, completion = writer.write(drawn)
    if finish == "stop":
        kept = before_stop(completion, values.stop)
        text, completion = text.removesuffix(completion) + kept, kept
    if values.json:
        told = {"text": text, "prompt": values.prompt, "completion": completion, "tokens": len(drawn), "finish": finish}
        print(json.dumps(told | ({"preference": preference} if preference else {})))
    else:
        print(text)
    return 0


def read_preference(entries: list[str]) -> list[float]:
    """The numbers of ``--preference``. UsageError where they are not on the simplex."""
    shown = f"--preference={','.join(entries)}"
    try:
        numbers = [float(entry) for entry in entries]
    except ValueError:
        raise UsageError(f"{shown}: expected numbers with commas between them, as 0.3,0.7") from None
    if not all(math.isfinite(x) and x >= 0 for x in numbers) or abs(sum(numbers) - 1) > 1e-3:
        raise UsageError(f"{shown}: is off the simplex (entries must be at least 0 and sum to 1)")
    return numbers


def open_writer(directory: Path, prompt: str, preference: list[float] | None, chat: bool = False) -> Writer:
    """The model in a directory. UserError naming the flag for what it cannot do."""
    config = load_config(directory)
    is_run = "model_type" not in config
    if is_run and run_kind(config) != PRETRAINED:
        if chat:
            raise UserError(f"--chat: {directory} holds a run, which is asked as it was trained (config.data.chat)")
        return _open_run(directory, prompt, preference)
    if preference is not None:
        raise UserError(f"--preference: {directory} is a Hugging Face model, only a MOC run can be steered by one")

    def read_prompt(config: DecoderConfig, tokenizer: Any) -> None:
        ids.extend(_pretrained_ids(directory, tokenizer, prompt, chat))
        if max(ids) >= config.vocab_size:  # an added special token, see ``load_tokenizer``
            token = tokenizer.convert_ids_to_tokens(max(ids))
            raise UserError(f"--prompt: {token} has no row among the {config.vocab_size} of the model's embedding")
        _check_room(ids, config.max_length)

    ids: list[int] = []  # a prompt that does not fit is refused before the parameters are read
    if is_run:
        model, tokenizer, _ = open_pretrained_run(directory, "--model", check_fn=read_prompt)
    else:
        model, tokenizer = load_pretrained(directory, check_fn=read_prompt)

    def write(drawn: list[int]) -> tuple[str, str]:
        before, text = (tokenizer.decode(row, skip_special_tokens=True) for row in (ids, ids + drawn))
        # not removeprefix: where bytes are tokens, the end of a prompt may read otherwise before half a character
        completion = text[len(os.path.commonprefix([before, text])) :]
        return completion if chat else text, completion

    window, end_id = model.config.max_length, model.end_ids or (-1,)  # no token is -1: such a model never ends
    return Writer(model.lm, model.params, ids, window, end_id, model.pad_id, write)


def _pretrained_ids(directory: Path, tokenizer: Any, prompt: str, chat: bool) -> list[int]:
    """The prompt as ids: as it stands, or as a user's turn in the tokenizer's chat template."""
    if chat and not tokenizer.chat_template:
        raise UserError(f"--chat: the tokenizer of {directory} has no chat template")
    if chat:
        turns = [{"role": "user", "content": prompt}]
        whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]  # the template writes them
    else:
        ids = tokenizer(prompt)["input_ids"]
    if not ids:
        raise UsageError("--prompt: is empty, and the tokenizer has no begin token to start from")
    return ids


def _check_room(ids: list[int], window: int) -> int:
    """How many tokens fit behind a prompt; UserError unless it is one at least."""
    if len(ids) >= window:
        raise UserError(f"--prompt: {len(ids)} tokens are longer than the model's window of {window}")
    return window - len(ids)


def _open_run(directory: Path, prompt: str, preference: list[float] | None) -> Writer:
    kind = run_kind(load_config(directory))
    if preference is not None and kind not in STEERED:
        raise UserError(f"--preference: {directory} holds a run of {kind!r}, only a MOC run can be steered by one")
    found = open_run(directory, "--model", WRITERS, made_by="visa-jax train or supervise")
    source = make_source(from_config_dict(DataConfig, found.config.data, f"{directory}/config.json: data"))
    opened = open_written(found, source)
    config, encoding = opened.config, found.config.get("preference_encoding", "")
    if kind == "moc":
        _check_preference(directory, preference, len(found.config.moc.reward_names))
    elif kind == "moc_sft" and (encoding := opened.role.preference_encoding) != "prefix":
        _check_preference(directory, preference, len(opened.role.preferences[0]))
    elif preference is not None:  # a prefix is a learned map, and only MOC learns it
        raise UserError(f"--preference: {directory} was not trained to read one, the moc run that starts from it is")
    tokenizer = source.tokenizer
    whole = prompt_of(kind, source.template, prompt, preference, encoding)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    warn_unknown("--prompt", check_text("--prompt", prompt, tokenizer, config.max_length))

    def write(drawn: list[int]) -> tuple[str, str]:
        completion = decode_batch(tokenizer, np.asarray([drawn], np.int32), end_id=opened.end_ids)[0]
        return f"{prompt.strip()} {completion}".strip(), completion

    lm, _ = make_decoder(config)
    return Writer(lm, opened.params, ids, config.max_length, opened.end_ids, pad_id(tokenizer), write)


def prompt_of(kind: str, template: Template, prompt: str, preference: list[float] | None, encoding: str) -> str:
    """The prompt as the run was trained on: a question, with the preference for MOC; as it stands for a rewriter."""
    question = read_text("--prompt", prompt)
    if kind in REWRITERS:
        return template.begin + prompt.strip().removeprefix(template.begin.strip()).strip()
    return template.answer(question) if preference is None else template.moc(question, preference, encoding)


def _check_preference(directory: Path, preference: list[float] | None, objectives: int) -> None:
    if preference is None:
        raise UsageError(f"--preference: is needed, {directory} was trained to read one")
    if len(preference) != objectives:
        raise UsageError(f"--preference: {len(preference)} numbers for a run with {objectives} objectives")


if __name__ == "__main__":
    sys.exit(run(["generate", *sys.argv[1:]]))
