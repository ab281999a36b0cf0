"""The tokenizer of a user's texts: trained on them, or a directory's, with or without this project's tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken

from visa_jax.config import UserError, require
from visa_jax.data.symbols import BOS, EOS, PAD, SPECIAL_TOKENS
from visa_jax.data.tokenizer import KINDS, load_tokenizer, train_tokenizer


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Trained on the texts unless ``directory`` names one; later runs take the first run's: ``runs/base/tokenizer``."""

    directory: str = ""
    kind: str = "bpe"  # bpe | word
    vocab_size: int = 4096

    def __post_init__(self):
        require(self.kind in KINDS, "kind", f"{self.kind!r} is not one of {', '.join(KINDS)}")


def open_tokenizer(config: TokenizerConfig, texts: Sequence[str], template: str = "levels") -> Any:
    """A transformers fast tokenizer: with every special token of ``data/symbols.py`` where ``template`` is "levels",
    else that of the directory as it is, for a published model knows no other tokens.

    Raises:
      UserError: no such directory, a vocabulary too small, no end token, or no token of its own for the full stop.
    """
    if config.directory:
        tokenizer = load_tokenizer(config.directory)
        if template == "levels":
            tokenizer = add_special_tokens(tokenizer)
        tokenizer.padding_side = "right"
        if tokenizer.eos_token_id is None:
            raise UserError(f"config.data.tokenizer.directory: the tokenizer of {config.directory} has no end token")
    else:
        tokenizer = train_tokenizer(texts, config.kind, config.vocab_size)
    stop = tokenizer.convert_tokens_to_ids(".")
    if tokenizer("it ended.", add_special_tokens=False)["input_ids"][-1] != stop or stop == tokenizer.unk_token_id:
        where = config.directory or "the text"
        raise UserError(f"config.data.tokenizer: {where} gives no token '.' of its own, by which sentences are told")
    return tokenizer


def add_special_tokens(tokenizer: Any) -> Any:
    """Add what is missing of this project's special tokens, and make its boundaries the tokenizer's."""
    known = tokenizer.get_vocab()
    missing = [t for t in SPECIAL_TOKENS if t not in known]
    added = [AddedToken(t, special=True, normalized=False, lstrip=True, rstrip=True) for t in missing]
    if added:
        tokenizer.add_tokens(added, special_tokens=True)
        tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token = PAD, BOS, EOS
        tokenizer.padding_side = "right"
    return tokenizer
