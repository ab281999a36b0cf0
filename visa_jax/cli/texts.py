"""What a person typed as a text: refused where it is empty, too long or of unknown words only; strange words named."""

import sys
from typing import Any

from visa_jax.cli.flags import UsageError
from visa_jax.config import UserError
from visa_jax.data.symbols import plain_text


def read_text(flag: str, text: str | None) -> str:
    """The text without space around it, and without anything that a tokenizer takes for a special token.

    Raises UsageError where nothing is left.
    """
    text = plain_text(text or "").strip()
    if not text:
        raise UsageError(f"{flag}: is empty")
    return text


def check_text(flag: str, text: str, tokenizer: Any, limit: int) -> list[str]:
    """The words of ``text`` that the tokenizer does not know; tell them by ``warn_unknown`` once nothing is refused.

    Raises:
      UserError: more tokens than ``limit``, or not one known word.
    """
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, places = read["input_ids"], read["offset_mapping"]
    if len(ids) > limit:
        raise UserError(f"{flag}: {len(ids)} tokens are longer than the model's window of {limit}")
    unknown = [text[a:b] for token, (a, b) in zip(ids, places, strict=True) if token == tokenizer.unk_token_id]
    unknown = list(dict.fromkeys(unknown))
    if unknown and not any(_is_word(text[a:b]) for (a, b) in places if text[a:b] not in unknown):
        raise UserError(f"{flag}: the model knows none of its words ({_shown(unknown)})")
    return unknown


def warn_unknown(flag: str, unknown: list[str]) -> None:
    """Tell on stderr which words the model cannot read, if any."""
    if unknown:
        print(f"{flag}: words that the model does not know: {_shown(unknown)}", file=sys.stderr)


def _is_word(piece: str) -> bool:
    return any(letter.isalnum() for letter in piece)


def _shown(words: list[str]) -> str:
    return ", ".join(words[:8]) + (f" and {len(words) - 8} more" if len(words) > 8 else "")
