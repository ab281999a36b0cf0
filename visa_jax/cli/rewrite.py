"""Rewrite a text towards a wish in plain words, or towards named values, keeping its facts.

TEXT="green walls . tessa leads . always choose mastery ."
visa-jax rewrite --workdir=runs/quickstart/visa --text="$TEXT" --wish="more daring, less bound to tradition" [--json]
visa-jax rewrite --workdir=runs/quickstart/visa --text="$TEXT" --values='{"Security": 0.5}'

The detector reads the text's values; a wish becomes a shift that is added to them, --values replaces the named ones
and keeps the others. The first rewrite is the likeliest one; if it misses the target or loses the facts, others are
drawn, --tries in all. Printed are the rewrite and how it did; --json shows every try.
"""

import json
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from visa_jax.cli.detect import by_name
from visa_jax.cli.experiment import VisaParts, open_visa
from visa_jax.cli.flags import LAST_SEED, UsageError, define_workdir
from visa_jax.cli.judging import make_loop
from visa_jax.cli.main import run
from visa_jax.cli.rewards import reading, role_of
from visa_jax.cli.runs import Run, check_base, open_run
from visa_jax.cli.texts import check_text, read_text, warn_unknown
from visa_jax.cli.train import read_config
from visa_jax.config import UserError, suggestion
from visa_jax.data.pool import Pool, visa_prompts
from visa_jax.data.tokenizer import encode_batch
from visa_jax.evaluation.quality import NEUTRAL
from visa_jax.evaluation.rewrites import named_values
from visa_jax.evaluation.run import by_rows, make_readers, make_sampler
from visa_jax.ops.conditions import add_shift
from visa_jax.rollout.closed_loop import Looped, Try
from visa_jax.training.roles import role_functions
from visa_jax.types import VALUES, Params


class Request(NamedTuple):
    """What was asked for: a wish, or values by name."""

    text: str
    question: str
    wish: str | None
    values: dict[str, float] | None


def define_flags(values: flags.FlagValues) -> None:
    define_workdir(values, "a VISA run")
    flags.DEFINE_string("text", None, "the text to rewrite", flag_values=values, required=True)
    flags.DEFINE_string("question", "", "the question that the text answers", flag_values=values)
    flags.DEFINE_string("wish", None, "how the values should change, in plain words", flag_values=values)
    flags.DEFINE_string("values", None, 'JSON, as {"Security": 0.5}: levels in [-1, 1]', flag_values=values)
    flags.DEFINE_string("translator", "", "a translator run, in place of the VISA run's own", flag_values=values)
    flags.DEFINE_integer("tries", 4, "most rewrites to draw", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("seed", 0, "of the drawing", flag_values=values, lower_bound=0, upper_bound=LAST_SEED)
    flags.DEFINE_bool("json", False, "print JSON with every try", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    request = read_request(values)
    found = open_run(values.workdir, "--workdir", "visa", made_by="visa-jax train")
    check_base(found.workdir, found.config)
    parts = one_by_one(open_visa(read_config(found.config)))
    unknown = check_request(parts, request)
    translator = None if request.wish is None else open_translator(parts, values.translator)
    before_M = parts.readers.values(parts.rewarders[0], [request.text])[0]
    target_M = find_target(parts, request, before_M, translator)
    for flag, words in unknown.items():
        warn_unknown(flag, words)
    looped = rewrite(parts, parts.policy.join(found.params), request, before_M, target_M, values.tries, values.seed)
    told = report(request, before_M, target_M, looped)
    print(json.dumps(told) if values.json else as_text(told))
    return 0


def read_request(values: flags.FlagValues) -> Request:
    """Everything that can be refused without opening a run."""
    text = read_text("--text", values.text)
    if (values.wish is None) == (values.values is None):
        raise UsageError("say either --wish or --values" + (", not both" if values.wish is not None else ""))
    question = read_text("--question", values.question) if values.question else ""
    if values.wish is not None:
        return Request(text, question, read_text("--wish", values.wish), None)
    return Request(text, question, None, read_values(values.values))


def read_values(given: str) -> dict[str, float]:
    """The levels of ``--values``. UsageError for what is no JSON object of known names with levels in [-1, 1]."""
    try:
        named = json.loads(given)
    except json.JSONDecodeError as error:
        raise UsageError(f"--values: not JSON ({error.msg} at character {error.pos + 1})") from None
    if not isinstance(named, dict) or not named:
        raise UsageError('--values: expected names with levels, as {"Security": 0.5}')
    for name, level in named.items():
        if name not in VALUES:
            raise UsageError(f"--values: no value is called {name!r}{suggestion(name, VALUES)}")
        if isinstance(level, bool) or not isinstance(level, int | float) or not -1 <= level <= 1:
            raise UsageError(f"--values: {name} is {json.dumps(level)}, expected a number in [-1, 1]")
    return {name: float(level) for name, level in named.items()}


def one_by_one(parts: VisaParts) -> VisaParts:
    """The same parts with programs for a single row."""
    source, functions = parts.source, parts.functions
    return parts._replace(
        readers=reading(make_readers(source, functions["detector"], functions["entailment"], None, batch_size=1)),
        sample=make_sampler(
            parts.lm, source, max_new_tokens=source.lengths.text, end_id=parts.policy.end_ids, batch_size=1
        ),
    )


def check_request(parts: VisaParts, request: Request) -> dict[str, list[str]]:
    """Refuse what can be refused before a program is compiled; returns the unknown words by flag."""
    tokenizer, lengths = parts.source.tokenizer, parts.source.lengths
    unknown = {"--text": check_text("--text", request.text, tokenizer, lengths.text)}
    if request.question:
        unknown["--question"] = check_text("--question", request.question, tokenizer, lengths.visa_prompt)
    _check_prompt(parts, request, np.zeros(len(VALUES)))
    if request.wish is not None:
        unknown["--wish"] = check_text("--wish", request.wish, tokenizer, lengths.wish)
    return unknown


def _check_prompt(parts: VisaParts, request: Request, target_M: np.ndarray) -> None:
    """The whole prompt must fit: question, text and the target's levels."""
    prompt = parts.source.template.visa(request.question, request.text, target_M)
    size, limit = len(parts.source.tokenizer(prompt, add_special_tokens=False)["input_ids"]), parts.source.lengths
    if size > limit.visa_prompt:
        raise UserError(f"--text: the prompt of {size} tokens is longer than the model's window of {limit.visa_prompt}")


def open_translator(parts: VisaParts, named: str) -> Run:
    """The translator that --translator names, else the VISA run's own."""
    if named:
        return open_run(named, "--translator", "translator")
    if not parts.config.runs.translator:
        raise UserError("--wish: the run has no translator (config.runs.translator); name one by --translator=DIR")
    return open_run(parts.config.runs.translator, "config.runs.translator", "translator")


def find_target(parts: VisaParts, request: Request, before_M: np.ndarray, translator: Run | None) -> np.ndarray:
    """v_tgt [10]: clip(v_orig + shift) for a wish, the named levels over v_orig for values (VISA notes 2 and 8)."""
    if request.wish is not None:
        shift_M = translate(parts, translator, request.wish)
        if np.abs(shift_M).max() < NEUTRAL:
            raise UserError(f"--wish: moves no value (the largest shift is {np.abs(shift_M).max():.2f} < {NEUTRAL})")
        target_M = np.asarray(add_shift(before_M, shift_M))
    else:
        target_M = np.array(before_M, np.float32)
        for name, level in request.values.items():
            target_M[VALUES.index(name)] = level
    _check_prompt(parts, request, target_M)
    return target_M


def translate(parts: VisaParts, translator: Run, wish: str) -> np.ndarray:
    """The shift [10] in [-2, 2] that a wish asks for."""
    read = role_functions(parts.source, role_of(translator))["translator"]
    program = jax.jit(lambda params, token, mask: 2 * read(params, token, mask).value_BM)
    return by_rows(
        program, translator.params, encode_batch(parts.source.tokenizer, [wish], parts.source.lengths.wish), 1
    )[0]


def rewrite(
    parts: VisaParts,
    params: Params,
    request: Request,
    before_M: np.ndarray,
    target_M: np.ndarray,
    tries: int = 4,
    seed: int = 0,
) -> Looped:
    """The closed loop for one text."""
    pool = Pool([request.question], [request.text], before_M[None])
    prompts = visa_prompts(parts.source, pool, np.arange(1), target_M[None])
    return make_loop(parts, batch_size=1)(params, prompts, target_M[None], jax.random.key(seed), tries)


def report(request: Request, before_M: np.ndarray, target_M: np.ndarray, looped: Looped) -> dict[str, Any]:
    """What --json prints."""
    tries, chosen = looped.tries[0], looped.chosen[0]
    told = {"text": request.text, "rewrite": tries[chosen].text, "chosen_try": chosen + 1}
    told |= {"v_orig": by_name(before_M), "target": by_name(target_M), "v_pred": by_name(tries[chosen].value_M)}
    figures = [_figures(each) for each in tries]
    return told | figures[chosen] | {"tries": [{"text": t.text, **f} for t, f in zip(tries, figures, strict=True)]}


def _figures(made: Try) -> dict[str, Any]:
    numbers = {
        "forward": made.forward,
        "backward": made.backward,
        "consistency": made.consistency,
        "value_l2": made.distance,
        "reward": made.reward,
    }
    return {"accepted": made.accepted} | {name: round(number, 4) for name, number in numbers.items()}


def as_text(told: dict[str, Any]) -> str:
    """What is printed without --json."""
    vectors = {name: np.array([told[name][value] for value in VALUES]) for name in ("v_orig", "target", "v_pred")}
    titles = {"v_orig": "values before", "target": "asked for", "v_pred": "values after"}
    lines = [told["rewrite"], ""]
    for name, title in titles.items():
        held = ", ".join(f"{value} {level:+.2f}" for value, level in named_values(vectors[name]).items())
        lines.append(f"{title + ':':<15}{held or 'none'}")
    lines.append(
        f"{'accepted' if told['accepted'] else 'not accepted'} (try {told['chosen_try']} of {len(told['tries'])}): "
        f"L2 to the target {told['value_l2']:.2f}, facts: forward {told['forward']:.2f}, "
        f"backward {told['backward']:.2f}, mean {told['consistency']:.2f}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(["rewrite", *sys.argv[1:]]))
