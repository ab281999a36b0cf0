"""How a question, a source text and a condition vector become one prompt.

The prompt is what the policy reads. Rewards never see it: they get the source text (VISA) or the bare question (MOC).
"""

import json
from collections.abc import Sequence

import numpy as np

from visa_jax.config import UserError
from visa_jax.data.symbols import (
    BOS,
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
VISA_TEMPLATES = ("levels", "json")
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
        f"Target values: {json.dumps(values)}\nRewritten answer:"
    )


def visa_prompt(question: str, source: str, target: np.ndarray, template: str = "levels") -> str:
    """The rewriter's prompt (visa.md section 2).

    Args:
      question: may be empty.
      source: the answer to rewrite.
      target: float [10] in [-1, 1], in the order of ``VALUES``.
      template: "levels", ``<bos> question <sep> source <sep> <security:+1.0> ... <sep>`` with one special token per
        non-zero level rounded to a half (at most 45 tokens on the testbed); or "json", with definitions and all ten
        values at two decimals in plain words.

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
    raise UserError(f"template {template!r} is not one of {', '.join(VISA_TEMPLATES)}")


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


def moc_prompt(question: str, preference: Sequence[float], encoding: str = "text") -> str:
    """``<bos> <rm1_score> <0.> <.3> <.07> <rm2_score> <0.> <.6> <.03> question <sep>`` (moc.md section 5)."""
    said = encode_preference(preference, encoding)
    return " ".join(part for part in (BOS, said, plain_text(question), SEP) if part)


def answer_prompt(question: str) -> str:
    """The base model's prompt: ``<bos> question <sep>``."""
    return f"{BOS} {plain_text(question)} {SEP}"
