"""The rows of a file that a run works on: those that fit, in normal form, split by question."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from visa_jax.config import UserError, require
from visa_jax.data.source import TWIN_SEED
from visa_jax.data.sources.records import TextRow
from visa_jax.data.sources.sentences import end_sentence, normalize_text

ON_LONG = ("drop", "refuse")


@dataclasses.dataclass(frozen=True)
class SizeConfig:
    """Most tokens of a text; nothing is ever cut."""

    question: int = 24
    text: int = 48  # an answer, a rewrite or a completion, with its end token
    on_long: str = "drop"  # drop (the count is printed) | refuse

    def __post_init__(self):
        require(self.question >= 1, "question", "must be at least 1")
        require(self.text >= 4, "text", "must be at least 4")
        require(self.on_long in ON_LONG, "on_long", f"{self.on_long!r} is not one of {', '.join(ON_LONG)}")


class Body(NamedTuple):
    """Rows by split, and what was left out."""

    rows: dict[str, list[TextRow]]  # "train", "test"
    told: str  # one line with the counts


def normalize_rows(rows: Sequence[TextRow]) -> list[TextRow]:
    """Questions and answers in normal form, answers with a full stop at the end; equal rows once."""
    made, seen = [], set()
    for row in rows:
        question, answer = normalize_text(row.question), end_sentence(normalize_text(row.answer))
        if (question, answer) not in seen:
            seen.add((question, answer))
            made.append(row._replace(question=question, answer=answer))
    return made


def make_body(
    name: str, rows: Sequence[TextRow], tokenizer: Any, sizes: SizeConfig, *, seed: int, test_share: float
) -> Body:
    """Keep the rows that fit and split them by question.

    Args:
      rows: in normal form.
      tokenizer: with a token "." (see ``cli/sources.py``).
      seed: of the split; the same rows and seed give the same split.
      test_share: of the questions; rows that name their split keep it.

    Raises:
      UserError: a row is too long and ``sizes.on_long`` is "refuse", or a split is left without rows.
    """
    lengths = _lengths(tokenizer, [row.question for row in rows]), _lengths(tokenizer, [row.answer for row in rows])
    stop = tokenizer.convert_tokens_to_ids(".")
    last = [ids[-1] if ids else None for ids in _encode(tokenizer, [row.answer for row in rows])]
    kept, long, endless = [], 0, 0
    for row, question, answer, end in zip(rows, *lengths, last, strict=True):
        if question > sizes.question or answer + 1 > sizes.text:
            if sizes.on_long == "refuse":
                raise UserError(
                    f"{row.place}: question of {question} and answer of {answer} tokens; config.data.sizes allows "
                    f"{sizes.question} and {sizes.text - 1}"
                )
            long += 1
        elif end != stop:
            endless += 1
        else:
            kept.append(row)
    train, test = _split(kept, seed, test_share)
    told = (
        f"{name}: {len(rows):,} different rows, {long:,} too long, {endless:,} without an end of sentence; "
        f"{len(train):,} to train on and {len(test):,} held out, "
        f"of {_questions(train):,} and {_questions(test):,} questions"
    )
    if not train or not test:
        raise UserError(f"{told}: too few; see config.data.sizes and config.data.test_share")
    return Body({"train": train, "test": test}, told)


def _split(rows: list[TextRow], seed: int, test_share: float) -> tuple[list[TextRow], list[TextRow]]:
    """Rows of the training and of the held-out questions, each in a seeded order of its questions."""
    questions = list(dict.fromkeys(row.question or row.answer for row in rows))  # a text without a question: its own
    order = np.random.default_rng([17, seed]).permutation(len(questions))
    rank = {questions[i]: place for place, i in enumerate(order)}
    held_out = max(round(test_share * len(questions)), 1)
    ordered = sorted(rows, key=lambda row: rank[row.question or row.answer])

    def is_test(row: TextRow) -> bool:
        return row.split == "test" if row.split else rank[row.question or row.answer] < held_out

    return [row for row in ordered if not is_test(row)], [row for row in ordered if is_test(row)]


def twin_rows(rows: Sequence[TextRow], seed: int) -> list[TextRow]:
    """The rows that a seed learns from: the questions are dealt out in turn to a model and its held-out judge.

    The judge of a run with twins has the seed of its model plus ``TWIN_SEED``. With one question both get all rows.
    """
    place = {question: i for i, question in enumerate(dict.fromkeys(row.question or row.answer for row in rows))}
    mine = [row for row in rows if place[row.question or row.answer] % 2 == (seed // TWIN_SEED) % 2]
    return mine or list(rows)


def draw_epochs(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    """n row numbers below ``count``: every row once before any row twice."""
    return np.concatenate([rng.permutation(count) for _ in range(-(-n // count))])[:n]


def _questions(rows: Sequence[TextRow]) -> int:
    return len({row.question or row.answer for row in rows})


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def _lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    return [len(ids) for ids in _encode(tokenizer, texts)]
