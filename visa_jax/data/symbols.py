"""Spellings of the special tokens: boundaries, value levels, preference tags and numbers.

A special token is matched before words are split and lower-cased, so its spelling cannot arise from plain text that
went through ``plain_text``.
"""

import numpy as np

from visa_jax.types import VALUES

PAD, BOS, EOS, UNK, SEP = "<pad>", "<bos>", "<eos>", "<unk>", "<sep>"
LEVELS = (-1.0, -0.5, 0.5, 1.0)
MOST_OBJECTIVES = 4


def level_token(value: int, level: float) -> str:
    """One token for a non-zero level of a value, as ``<security:+1.0>``."""
    return f"<{VALUES[value].lower()}:{level:+.1f}>"


def preference_tag(objective: int) -> str:
    """``<rm1_score>`` for objective 0."""
    return f"<rm{objective + 1}_score>"


def _hundredths(number: float) -> int:
    hundredths = int(np.floor(100 * number + 0.5)) if np.isfinite(number) else -1
    if not 0 <= hundredths <= 100:
        raise ValueError(f"preference entry {number} is not in [0, 1]")
    return hundredths


def number_tokens(number: float) -> str:
    """A number in [0, 1] as three tokens, one spelling per place: 0.37 is ``<0.> <.3> <.07>``."""
    hundredths = _hundredths(number)
    return f"<{hundredths // 100}.> <.{hundredths // 10 % 10}> <.0{hundredths % 10}>"


def number_symbol(number: float) -> str:
    """A number in [0, 1] as one token: 0.37 is ``<p0.37>``."""
    hundredths = _hundredths(number)
    return f"<p{hundredths // 100}.{hundredths % 100:02d}>"


def plain_text(text: str) -> str:
    """``text`` with "<" set apart, so that no special token can be smuggled in by what a user or a model wrote."""
    return text.replace("<", "< ")


SPECIAL_TOKENS: tuple[str, ...] = (
    PAD,
    BOS,
    EOS,
    UNK,
    SEP,
    *(level_token(value, level) for value in range(len(VALUES)) for level in LEVELS),
    *(preference_tag(objective) for objective in range(MOST_OBJECTIVES)),
    *(f"<{unit}.>" for unit in range(2)),
    *(f"<.{tenth}>" for tenth in range(10)),
    *(f"<.0{hundredth}>" for hundredth in range(10)),
    *(number_symbol(hundredth / 100) for hundredth in range(101)),
)
