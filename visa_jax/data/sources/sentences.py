"""The normal form of a text, its sentences, and entailment pairs made from texts that nobody labelled."""

import re
from collections.abc import Sequence

import numpy as np

from visa_jax.data.symbols import plain_text
from visa_jax.data.testbed.entailment import ENTAILED, NOT_ENTAILED, EntailmentPair

_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})
_END = re.compile(r"(?<=[.!?])\s+")
KINDS = ("kept", "omitted", "invented", "altered")


def normalize_text(text: str) -> str:
    """One space between words, straight quotes and dashes, "<" set apart (see ``plain_text``)."""
    return " ".join(plain_text(text.translate(_QUOTES)).split())


def end_sentence(text: str) -> str:
    """The text with a full stop at its end: the token at which sentences are judged and which a rewrite must reach."""
    return text.rstrip(" .!?:;,-\u2026\"')]") + "."


def split_sentences(text: str) -> list[str]:
    """Sentences by their closing ".", "!" or "?" and the space behind it."""
    return [sentence for sentence in _END.split(text) if sentence]


def drop_words(rng: np.random.Generator, sentence: str, share: float) -> str:
    """The sentence without a random ``share`` of its words, its last one kept."""
    words = sentence.split()
    keep = rng.random(len(words)) >= share
    keep[-1] = True
    return " ".join(word for word, kept in zip(words, keep, strict=True) if kept)


def alter_words(rng: np.random.Generator, sentence: str, others: Sequence[str], share: float) -> str:
    """The sentence with at least one word, and about ``share`` of them, exchanged for words from ``others``."""
    words = sentence.split()
    chosen = rng.random(len(words) - 1) < share if len(words) > 1 else np.zeros(0, bool)
    if not chosen.any():
        chosen = np.arange(max(len(words) - 1, 1)) == rng.integers(max(len(words) - 1, 1))
    for place in np.flatnonzero(chosen):
        words[place] = others[int(rng.integers(len(others)))].rstrip(".,;:!?")
    return " ".join(words) if words[-1].endswith((".", "!", "?")) else " ".join(words) + "."


def draw_pair(rng: np.random.Generator, text: str, same: Sequence[str], other: str) -> EntailmentPair:
    """One pair with the labels of its hypothesis's sentences, the kinds in equal shares [ours].

    kept: sentences of the premise in any order, some words left out (entailed). omitted: the premise lacks a sentence
    that the hypothesis has (not entailed). invented: the hypothesis has a sentence of another answer, to the same
    question where there is one. altered: words of a sentence are exchanged for words from elsewhere.

    Args:
      text: an answer.
      same: other answers to its question.
      other: an answer to another question.
    """
    sentences = split_sentences(text)
    kind = KINDS[int(rng.integers(len(KINDS)))]
    if kind == "omitted" and len(sentences) < 2:
        kind = "invented"
    order = rng.permutation(len(sentences))
    count = int(rng.integers(1, len(sentences) + 1))
    said = [(sentences[i], ENTAILED) for i in order[:count]]
    premise = sentences
    if kind == "omitted":
        lost = set(order[: int(rng.integers(1, len(sentences)))].tolist())
        premise = [s for i, s in enumerate(sentences) if i not in lost]
        said = [(sentences[i], NOT_ENTAILED if i in lost else ENTAILED) for i in order]
    elif kind == "invented":
        source = same[int(rng.integers(len(same)))] if same and rng.random() < 0.5 else other
        strange = [s for s in split_sentences(source) if s not in sentences]
        said = said[: int(rng.integers(count + 1))]
        said += [(s, NOT_ENTAILED) for s in strange[: 1 + int(rng.integers(2))]]
    elif kind == "altered":
        place = int(rng.integers(len(said)))
        changed = alter_words(rng, said[place][0], other.split(), 0.3)
        said[place] = (changed, ENTAILED if changed in sentences else NOT_ENTAILED)
    share = 0.15 if rng.random() < 0.5 else 0.0
    said = [(drop_words(rng, s, share) if share else s, label) for s, label in said] or [(sentences[0], ENTAILED)]
    said = [said[i] for i in rng.permutation(len(said))]
    labels = tuple(label for _, label in said)
    return EntailmentPair(
        " ".join(premise), " ".join(s for s, _ in said), tuple(s for s, _ in said), labels, min(labels), kind
    )


def join_answers(rng: np.random.Generator, source: str, other: str) -> str:
    """Some sentences of ``source`` (one at least), then some of ``other``, each in its order; none stands twice."""
    kept, added = (_some_sentences(rng, text) for text in (source, other))
    return " ".join([*kept, *(sentence for sentence in added if sentence not in kept)])


def _some_sentences(rng: np.random.Generator, text: str) -> list[str]:
    sentences = split_sentences(text)
    count = int(rng.integers(1, len(sentences) + 1))
    return [sentences[i] for i in sorted(rng.choice(len(sentences), size=count, replace=False))]


def label_stops(counts: Sequence[int], labels: Sequence[int]) -> tuple[int, ...]:
    """One label for each full stop from one for each sentence; ``counts`` are the stops in each.

    A sentence without a full stop ("Really?") is judged with the one behind it, so that is entailed if both are.
    """
    made, carried = [], ENTAILED
    for count, label in zip(counts, labels, strict=True):
        carried = min(carried, label)
        if count:
            made += [carried] * count
            carried = ENTAILED
    return tuple(made)
