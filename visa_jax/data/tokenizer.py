"""Tokenizers: trained here, kept as a transformers fast tokenizer, and the way between texts and padded ids."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from visa_jax.config import UserError
from visa_jax.data.symbols import BOS, EOS, PAD, SPECIAL_TOKENS, UNK
from visa_jax.data.testbed.vocabulary import vocabulary
from visa_jax.ops.masked import is_end
from visa_jax.types import EndId

KINDS = ("word", "bpe")


def _special_tokens() -> list[AddedToken]:
    # Spaces around a special token belong to it; else byte-level BPE would write a word after <sep> in another way.
    return [AddedToken(t, special=True, normalized=False, lstrip=True, rstrip=True) for t in SPECIAL_TOKENS]


def _wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _word_backend(words: dict[str, int]) -> Tokenizer:
    backend = Tokenizer(models.WordLevel(words, unk_token=UNK))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return backend


def make_testbed_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer with every word of the testbed; ids are the same on every machine, <pad> is 0."""
    words = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *vocabulary()))}
    backend = _word_backend(words)
    backend.add_special_tokens(_special_tokens())
    return _wrap(backend)


def train_tokenizer(texts: Iterable[str], kind: str = "bpe", vocab_size: int = 8192) -> PreTrainedTokenizerFast:
    """A tokenizer of the user's own texts with this project's special tokens.

    Args:
      texts: what it learns from, lower-cased by "word" and kept as it is by "bpe".
      kind: "word" (frequent words, others become <unk>) or "bpe" (byte level: nothing is unknown).
      vocab_size: most ids, special tokens included.

    Raises:
      UserError: unknown kind, or a vocabulary that cannot hold the special tokens (and the 256 bytes of "bpe").
    """
    if kind not in KINDS:
        raise UserError(f"tokenizer kind {kind!r} is not one of {', '.join(KINDS)}")
    least = len(SPECIAL_TOKENS) + (256 if kind == "bpe" else 1)
    if vocab_size < least:
        raise UserError(f"vocab_size {vocab_size} is too small: a {kind} tokenizer needs at least {least}")
    if kind == "word":
        backend = _word_backend({UNK: 0})
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=_special_tokens(), show_progress=False
        )
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=_special_tokens(),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
    backend.train_from_iterator(texts, trainer)
    return _wrap(backend)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: str | Path) -> None:
    """Write ``tokenizer.json`` and its configuration, as Hugging Face directories have them."""
    tokenizer.save_pretrained(str(directory))


def load_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory; nothing is fetched. UserError where there is none."""
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"tokenizer directory {directory} does not exist")
    try:
        if (directory / "tokenizer.json").is_file():
            json.loads(
                (directory / "tokenizer.json").read_text(encoding="utf-8")
            )  # a cut one fails in unnamed ways below
        return AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{directory} holds no tokenizer that can be read: {str(error).splitlines()[0]}") from error


def encode_batch(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int, *, end: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Texts as right-padded ids.

    Args:
      texts: n texts; special tokens in them are read as such.
      length: width of the result.
      end: append the end token to each text (it counts towards ``length``).

    Returns:
      ids int32 [n, length] and mask bool [n, length], True on tokens.

    Raises:
      UserError: a text does not fit; nothing is cut silently.
    """
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if len(texts) else []
    ids = np.full((len(rows), length), pad_id(tokenizer), np.int32)
    mask = np.zeros((len(rows), length), bool)
    for row, tokens in enumerate(rows):
        tokens = [*tokens, tokenizer.eos_token_id] if end else tokens
        if len(tokens) > length:
            shown = texts[row] if len(texts[row]) <= 60 else texts[row][:57] + "..."
            raise UserError(f"text of {len(tokens)} tokens is longer than the limit of {length}: {shown!r}")
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = True
    return ids, mask


def pad_encoded(encoded: Any, widths: Sequence[int], filler: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a published tokenizer gives for n rows (special tokens and kinds too) as arrays.

    token int32, mask bool, type int32, each [n, W], W the least of ``widths`` that holds every row.

    A row without any token (an empty text, and a tokenizer that adds nothing) is read as one ``filler``.
    """
    rows = [ids or [filler] for ids in encoded["input_ids"]]
    longest = max(map(len, rows))
    width = min(width for width in widths if width >= longest)
    token_NT = np.full((len(rows), width), filler, np.int32)
    mask_NT, type_NT = np.zeros(token_NT.shape, bool), np.zeros(token_NT.shape, np.int32)
    for row, ids in enumerate(rows):
        token_NT[row, : len(ids)], mask_NT[row, : len(ids)] = ids, True
    for row, kinds in enumerate(encoded.get("token_type_ids") or ()):
        type_NT[row, : len(kinds)] = kinds
    return token_NT, mask_NT, type_NT


def decode_batch(
    tokenizer: PreTrainedTokenizerBase,
    ids: np.ndarray,
    mask: np.ndarray | None = None,
    end_id: EndId | None = None,
) -> list[str]:
    """Ids int [n, length] as texts: up to the first end token, padding and begin token left out.

    Other special tokens stay visible, so that a policy cannot hide them from a reader. ``mask`` bool [n, length]
    leaves out what is False. ``end_id``: the end tokens; None = the tokenizer's own.
    """
    end_id = tokenizer.eos_token_id if end_id is None else end_id
    drop = {pad_id(tokenizer), tokenizer.bos_token_id}
    rows = []
    for row, tokens in enumerate(np.asarray(ids)):
        kept = tokens if mask is None else tokens[mask[row]]
        before_end = np.cumsum(is_end(kept, end_id)) == 0
        rows.append([token for token in kept[before_end].tolist() if token not in drop])
    texts = tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]


def before_stop(text: str, stop: Sequence[str]) -> str | None:
    """``text`` up to the first place where one of the strings ``stop`` begins; None where none of them stands in it.

    Tokens play no part: a stop string may begin and end within tokens.
    """
    begins = [text.index(each) for each in stop if each in text]
    return text[: min(begins)] if begins else None


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills rows: the padding token's, else the end token's, else 0."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0):
        if token is not None:
            return token
    raise AssertionError("unreachable: 0 is never None")
