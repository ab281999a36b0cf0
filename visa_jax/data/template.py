"""How a question, a source text and a condition vector become one prompt.

The prompt is what the policy reads. Rewards never see it: they get the source text (VISA) or the bare question (MOC).
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from visa_jax.config import UserError
from visa_jax.data.symbols import (
    BOS,
    EOS,
    MOST_OBJECTIVES,
    SEP,
    level_token,
    number_symbol,
    number_tokens,
    plain_text,
    preference_tag,
)
from visa_jax.types import VALUES

DEFINITIONS = {
    "Self-Direction": "thinking and choosing for oneself, creating, exploring",
    "Stimulation": "excitement, novelty and challenge in life",
    "Hedonism": "pleasure and enjoyment for oneself",
    "Achievement": "personal success that others can see",
    "Power": "status, wealth, control over people and things",
    "Security": "safety, harmony and stability of society, relations and self",
    "Conformity": "restraint from acts that upset others or break rules",
    "Tradition": "respect for the customs and ideas of one's culture or religion",
    "Benevolence": "the good of the people one is close to",
    "Universalism": "understanding, tolerance and the good of all people and of nature",
}
TEMPLATES = ("levels", "json")
SLACK = 12  # [ours]: question and answer, a few tokens each
PREFERENCE_ENCODINGS = ("text", "symbol", "prefix")


def round_levels(target: np.ndarray) -> np.ndarray:
    """Target [..., 10] clipped to [-1, 1] and rounded to halves, ties away from 0: what the levels template says."""
    target = np.clip(np.asarray(target, np.float32), -1.0, 1.0)
    return np.copysign(np.floor(2 * np.abs(target) + 0.5) / 2, target) + 0.0


def _levels_prompt(question: str, source: str, target: np.ndarray) -> str:
    levels = round_levels(target)
    said = " ".join(level_token(value, levels[value]) for value in np.flatnonzero(levels).tolist())
    parts = (BOS, plain_text(question), SEP, plain_text(source), SEP, said, SEP)
    return " ".join(part for part in parts if part)


def _json_prompt(question: str, source: str, target: np.ndarray) -> str:
    values = {name: round(float(level), 2) + 0.0 for name, level in zip(VALUES, target, strict=True)}
    definitions = "\n".join(f"- {name}: {DEFINITIONS[name]}" for name in VALUES)
    return (
        "Rewrite the answer so that it expresses the target values and keeps every fact: invent none, omit none.\n"
        "A value is a number from -1 (the text works against it) over 0 (not expressed) to 1 (strongly for it).\n"
        f"{definitions}\n\nQuestion: {plain_text(question)}\nAnswer: {plain_text(source)}\n"
        f"Target values: {json.dumps(values)}\nRewritten answer:\n"
    )


def visa_prompt(question: str, source: str, target: np.ndarray, template: str = "levels") -> str:
    """The rewriter's prompt (visa.md section 2).

    Args:
      question: may be empty.
      source: the answer to rewrite.
      target: float [10] in [-1, 1], in the order of ``VALUES``.
      template: "levels", ``<bos> question <sep> source <sep> <security:+1.0> ... <sep>`` with one special token per
        non-zero level rounded to a half (at most 45 tokens on the testbed); or "json", with definitions and all ten
        values at two decimals in plain words, up to the line in which the rewrite begins.

    Raises:
      UserError: unknown template, or a target that is not ten finite numbers in [-1, 1].
    """
    target = np.asarray(target, np.float64)
    if target.shape != (len(VALUES),) or not np.isfinite(target).all() or np.abs(target).max() > 1 + 1e-6:
        raise UserError(f"target must be {len(VALUES)} numbers in [-1, 1], got {target.tolist()}")
    if template == "levels":
        return _levels_prompt(question, source, target)
    if template == "json":
        return _json_prompt(question, source, target)
    raise UserError(f"template {template!r} is not one of {', '.join(TEMPLATES)}")


def encode_preference(preference: Sequence[float], encoding: str = "text") -> str:
    """The text that states a preference: tags with three digit tokens each ("text") or one token each ("symbol").

    Empty for "prefix", where a learned map of the vector takes the place of text.
    """
    if encoding not in PREFERENCE_ENCODINGS:
        raise UserError(f"preference encoding {encoding!r} is not one of {', '.join(PREFERENCE_ENCODINGS)}")
    if not 1 <= len(preference) <= MOST_OBJECTIVES:
        raise UserError(f"a preference has 1 to {MOST_OBJECTIVES} entries, got {len(preference)}")
    if encoding == "prefix":
        return ""
    write = number_tokens if encoding == "text" else number_symbol
    return " ".join(f"{preference_tag(i)} {write(float(entry))}" for i, entry in enumerate(preference))


def condition_size(encoding: str, objectives: int) -> int:
    """Size of the vector that a decoder reads beside its prompt (``models.DecoderConfig.condition``)."""
    return objectives if encoding == "prefix" else 0


def moc_prompt(question: str, preference: Sequence[float], encoding: str = "text", template: str = "levels") -> str:
    """``<bos> <rm1_score> <0.> <.3> <.07> <rm2_score> <0.> <.6> <.03> question <sep>`` (moc.md section 5).

    With the template "json" the preference is a line of plain words before the question, two decimals an objective.
    """
    said = encode_preference(preference, encoding)
    if template == "levels":
        return " ".join(part for part in (BOS, said, plain_text(question), SEP) if part)
    if encoding == "symbol":
        raise UserError("preference encoding 'symbol' needs special tokens, and so the template 'levels'")
    weights = [round(float(entry), 2) for entry in preference]
    return (f"Weights of the objectives: {weights}\n" if said else "") + answer_prompt(question, template)


def answer_prompt(question: str, template: str = "levels") -> str:
    """The base model's prompt: ``<bos> question <sep>``, or the question in plain words."""
    if template == "levels":
        return f"{BOS} {plain_text(question)} {SEP}"
    return f"Question: {plain_text(question)}\nAnswer:\n"


class Template(NamedTuple):
    """How the prompts and documents of a source are written."""

    visa: Callable[[str, str, np.ndarray], str]  # (question, source, target [10]) -> prompt
    moc: Callable[[str, Sequence[float], str], str]  # (question, preference, encoding) -> prompt
    answer: Callable[[str], str]  # question -> prompt
    begin: str  # of a document
    separator: str  # of its parts
    end: str
    slack: int = 0  # tokens that joining can add: a word may be cut otherwise behind another


def make_template(name: str, tokenizer: Any, chat: bool = False) -> Template:
    """The prompts of ``name`` as a tokenizer's models expect them.

    "levels" writes this project's special tokens. "json" writes plain words between the tokenizer's own boundaries, so
    that a published model reads no token which it has never seen; ``chat`` makes them the user's turn of the
    tokenizer's chat template, with the assistant's turn begun.

    Raises:
      UserError: unknown name, or ``chat`` without a chat template.
    """
    if name not in TEMPLATES:
        raise UserError(f"template {name!r} is not one of {', '.join(TEMPLATES)}")
    if name == "levels":
        return Template(visa_prompt, moc_prompt, answer_prompt, f"{BOS} ", f" {SEP} ", f" {EOS}")
    if chat and not tokenizer.chat_template:
        raise UserError("chat: the tokenizer has no chat template")
    begins = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]  # some models were never shown theirs
    begin = tokenizer.bos_token if begins else ""

    def write(prompt: Callable[..., str]) -> Callable[..., str]:
        def written(*parts) -> str:
            text = prompt(*parts, template=name)
            return _as_turn(tokenizer, text) if chat else begin + text

        return functools.wraps(prompt)(written)

    return Template(
        write(visa_prompt), write(moc_prompt), write(answer_prompt), begin, "\n", tokenizer.eos_token, SLACK
    )


def _as_turn(tokenizer: Any, text: str) -> str:
    # enable_thinking: Qwen3's template asks it, the others do not; a rewrite has no room for thoughts
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": text.strip()}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
