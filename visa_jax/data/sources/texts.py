"""Rows of a file -> ``data.source.Source``: what the testbed offers, made from texts that somebody else wrote.

There is no oracle here. Learned judges are held out in their place: they learn from other questions than the models
that reward (``twin_rows``), and everybody is judged on questions that nobody learned from.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from visa_jax.config import UserError
from visa_jax.data.source import Lengths, Source
from visa_jax.data.sources.body import Body, SizeConfig, draw_epochs, twin_rows
from visa_jax.data.sources.records import TextRow
from visa_jax.data.sources.sentences import draw_pair, join_answers, label_stops
from visa_jax.data.symbols import MOST_OBJECTIVES
from visa_jax.data.template import Template, make_template
from visa_jax.data.testbed.corpus import VisaPair, corrupt
from visa_jax.data.testbed.entailment import EntailmentPair
from visa_jax.data.testbed.objectives import ScoredAnswer
from visa_jax.ops.conditions import draw_target
from visa_jax.types import VALUES

LabelFn = Callable[[list[str]], np.ndarray]  # texts -> values [n, 10]
# Kinds of pretraining documents [ours]. Real sentences said again are half predictable, so a small model is slow to
# copy them; words in no order can only be copied, and what it learns there it uses on sentences (LOG.md).
DOCUMENTS = {"restated": 0.45, "echoed": 0.25, "plain": 0.3}
CANDIDATES = 16  # texts of which the nearest to a drawn target becomes SFT's reference [ours]
ECHOED_WORDS = (6, 24)  # fewest and most words of an echo
DAMAGED = 0.15  # share of a reward model's answers that are scrambled and score 0: broken text must not pay [ours]


def make_lengths(sizes: SizeConfig, template: Template, tokenizer: Any) -> Lengths:
    """Limits of every prompt from those of a question and a text; a prompt that states all ten values fits."""

    def around(prompt: str) -> int:
        return len(tokenizer(prompt, add_special_tokens=False)["input_ids"])

    target, preference = np.full(len(VALUES), -0.55), (0.25,) * MOST_OBJECTIVES  # nothing takes more tokens to say
    return Lengths(
        question=sizes.question,
        text=sizes.text,
        visa_prompt=sizes.question + sizes.text + around(template.visa("", "", target)) + template.slack,
        wish=sizes.text,
        moc_prompt=sizes.question + around(template.moc("", preference, "text")) + template.slack,
        answer=sizes.text,
        document=max(sizes.question + 2 * sizes.text + 4, 64),
    )


def make_text_source(
    name: str,
    body: Body,
    labelled: Body | None,
    tokenizer: Any,
    sizes: SizeConfig,
    label_fn: LabelFn | None = None,
    template: Template | None = None,
) -> Source:
    """The source of a user's rows.

    Args:
      body: questions with answers: what is rewritten, answered and pretrained on.
      labelled: rows with value labels for the detector; None = those of ``body``. They are pretrained on too.
      label_fn: reads the values of texts without labels (a detector); SFT pairs need it where ``body`` has no labels.
      template: None = that of special tokens.
    """
    template = template or make_template("levels", tokenizer)
    lengths = make_lengths(sizes, template, tokenizer)
    texts = _Texts(body, labelled or body, tokenizer, sizes, label_fn, lengths.document, template.separator)
    return Source(
        name=name,
        tokenizer=tokenizer,
        lengths=lengths,
        template=template,
        documents=texts.documents,
        pack_documents=False,
        questions=texts.questions,
        sources=texts.sources,
        labelled=texts.labelled if any(r.value is not None for r in texts.values.rows["train"]) else None,
        wishes=None,
        pairs=texts.pairs,
        visa_pairs=texts.visa_pairs,
        scored=texts.scored if body.rows["train"][0].scores is not None else None,
        answers=texts.answers,
        probes=None,
        topic_of=None,
        score_answer=None,
        testbed=None,
    )


class _Texts:
    """The row functions of a source, each (n, seed, split) -> n rows; rows come again once all were drawn."""

    def __init__(
        self,
        body: Body,
        values: Body,
        tokenizer: Any,
        sizes: SizeConfig,
        label_fn: LabelFn | None,
        document: int,
        separator: str,
    ):
        self.body, self.values, self.tokenizer, self.sizes, self.label_fn = body, values, tokenizer, sizes, label_fn
        self._document_words = document  # a word has at least one token, so as many fill a row
        self._separator = separator

    def documents(self, n: int, seed: int, split: str) -> list[str]:
        """``question <sep> answer`` (plain), with the answer said again until the row is full (restated), or random
        words said again and again (echoed); what is longer than a row is cut there."""
        rows = self.body.rows[split] + (self.values.rows[split] if self.values is not self.body else [])
        rng, made = _rng(0, seed, split), []
        words = [word for row in rows for word in row.answer.split()]
        for i in draw_epochs(rng, len(rows), n):
            kind = rng.choice(list(DOCUMENTS), p=list(DOCUMENTS.values()))
            if kind == "echoed":
                drawn = rng.integers(len(words), size=rng.integers(*ECHOED_WORDS, endpoint=True))
                parts = [" ".join(words[k] for k in drawn)]
            else:
                parts = [rows[i].question, rows[i].answer]
            if kind != "plain":
                parts += parts[-1:] * (self._document_words // max(len(parts[-1].split()), 1))
            made.append(self._separator.join(filter(None, parts)))
        return made

    def questions(self, n: int, seed: int, split: str) -> list[str]:
        asked = list(dict.fromkeys(row.question for row in self.body.rows[split]))
        return [asked[i] for i in draw_epochs(_rng(9, seed, split), len(asked), n)]

    def sources(self, n: int, seed: int, split: str) -> list[tuple[str, str]]:
        rows = self.body.rows[split]
        return [(rows[i].question, rows[i].answer) for i in draw_epochs(_rng(1, seed, split), len(rows), n)]

    def labelled(self, n: int, seed: int, split: str) -> tuple[list[str], np.ndarray]:
        rows = [row for row in self._mine(self.values, seed, split) if row.value is not None]
        if not rows:
            raise UserError(f"data: no {split} row has value labels")
        drawn = [rows[i] for i in draw_epochs(_rng(2, seed, split), len(rows), n)]
        return [row.answer for row in drawn], np.stack([row.value for row in drawn])

    def pairs(self, n: int, seed: int, split: str) -> list[EntailmentPair]:
        """Self-supervised pairs (``sentences.draw_pair``) whose hypotheses fit."""
        rows, rng = self._mine(self.body, seed, split), _rng(4, seed, split)
        answers = _by_question(rows)
        made: list[EntailmentPair] = []
        while len(made) < n:
            drawn = []
            for i in draw_epochs(rng, len(rows), n - len(made) + 16):
                same = [a for a in answers[rows[i].question] if a != rows[i].answer]
                other = rows[int(rng.integers(len(rows)))].answer
                drawn.append(draw_pair(rng, rows[i].answer, same, other))
            made += self._fitting(drawn)
        return made[:n]

    def _fitting(self, drawn: list[EntailmentPair]) -> list[EntailmentPair]:
        """The pairs whose hypotheses fit and whose full stops belong to one sentence each, labelled stop by stop."""
        stop = self.tokenizer.convert_tokens_to_ids(".")
        whole = self._encode([pair.hypothesis for pair in drawn])
        premises = self._encode([pair.premise for pair in drawn])
        flat = iter(self._encode([sentence for pair in drawn for sentence in pair.sentences]))
        kept = []
        for pair, premise, ids in zip(drawn, premises, whole, strict=True):
            counts = [next(flat).count(stop) for _ in pair.sentences]
            labels = label_stops(counts, pair.labels)
            fits = max(len(ids), len(premise)) <= self.sizes.text and len(labels) == ids.count(stop) > 0
            if fits and ids[-1] == stop:
                kept.append(pair._replace(labels=labels, label=min(labels)))
        return kept

    def visa_pairs(self, n: int, seed: int, split: str) -> list[VisaPair]:
        """Source and reference are answers to one question, the target is the reference's values.

        With a detector that reads any text, the target is drawn as RL draws it, and the reference is what comes nearest
        to it among ``CANDIDATES`` texts: the source, and such that join some of its sentences with some of another
        answer's, every other time one to another question. It shares a part of the source's facts, as on the testbed:
        from answers that share nothing SFT learns to ignore the source (LOG.md). Where no question has two answers and
        there is no detector, the reference is the source itself, and such SFT only teaches the form.
        """
        if self.label_fn is not None:
            return self._nearest_pairs(n, seed, split)
        rows, rng = self.body.rows[split], _rng(5, seed, split)
        of: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            of.setdefault(row.question, []).append(i)
        ordered = [(i, j) for asked, same in of.items() if asked for i in same for j in same if i != j]
        ordered = ordered or [(i, i) for i in range(len(rows))]
        drawn = [(rows[i], rows[j]) for i, j in (ordered[k] for k in draw_epochs(rng, len(ordered), n))]
        if any(other.value is None for _, other in drawn):
            raise UserError("config.data.value_run: name a detector run, the texts to rewrite have no value labels")
        return [VisaPair(row.question, row.answer, other.value, other.answer) for row, other in drawn]

    def _nearest_pairs(self, n: int, seed: int, split: str) -> list[VisaPair]:
        rows, rng = self.body.rows[split], _rng(5, seed, split)
        answers = _by_question(rows)
        drawn = [rows[i] for i in draw_epochs(rng, len(rows), n)]
        joined = []
        for row in drawn:
            same = answers[row.question] if row.question else [row.answer]
            joined.append(row.answer)
            for k in range(1, CANDIDATES):
                other = same[rng.integers(len(same))] if k % 2 else rows[rng.integers(len(rows))].answer
                joined.append(join_answers(rng, row.answer, other))
        fits = [len(ids) < self.sizes.text for ids in self._encode(joined)]
        joined = [
            new if fit else drawn[i // CANDIDATES].answer for i, (new, fit) in enumerate(zip(joined, fits, strict=True))
        ]
        value_NCM = self.label_fn(joined).reshape(n, CANDIDATES, len(VALUES))
        target_NM = np.asarray(draw_target(jax.random.key(seed), value_NCM[:, 0], lowest=self._lowest()))
        distance_NC = np.linalg.norm(value_NCM - target_NM[:, None], axis=2)
        best_N = np.arange(n) * CANDIDATES + distance_NC.argmin(axis=1)
        parts = zip(drawn, target_NM, best_N, strict=True)
        return [VisaPair(row.question, row.answer, target, joined[best]) for row, target, best in parts]

    def _lowest(self) -> float:
        """The lowest target with a meaning: 0 where no label is negative, as presence labels are."""
        return min([0.0, *(float(row.value.min()) for row in self.values.rows["train"] if row.value is not None)])

    def scored(self, n: int, seed: int, split: str) -> list[ScoredAnswer]:
        """Answers with their scores; of the training rows ``DAMAGED`` are scrambled and score 0."""
        drawn, rng = self._answers(n, seed, split, 6, self._mine(self.body, seed, split)), _rng(10, seed, split)
        if split == "test":
            return drawn
        return [self._scrambled(rng, one) if rng.random() < DAMAGED else one for one in drawn]

    def answers(self, n: int, seed: int, split: str) -> list[ScoredAnswer]:
        return self._answers(n, seed, split, 7, self.body.rows[split])

    def _answers(self, n: int, seed: int, split: str, task: int, rows: Sequence[TextRow]) -> list[ScoredAnswer]:
        drawn = [rows[i] for i in draw_epochs(_rng(task, seed, split), len(rows), n)]
        return [ScoredAnswer("", row.question, row.answer, row.scores) for row in drawn]

    def _scrambled(self, rng: np.random.Generator, one: ScoredAnswer) -> ScoredAnswer:
        words = one.text.split()
        if len(words) < 4:
            return one
        text = " ".join(words[i] for i in rng.permutation(len(words))) if rng.random() < 0.5 else one.text
        for _ in range(2):
            text = corrupt(rng, text)
        too_long = len(self._encode([text])[0]) >= self.sizes.text
        return one if too_long or text == one.text else one._replace(text=text, scores=np.zeros_like(one.scores))

    def _mine(self, body: Body, seed: int, split: str) -> list[TextRow]:
        rows = body.rows[split]
        return twin_rows(rows, seed) if split == "train" else list(rows)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]


def _by_question(rows: Sequence[TextRow]) -> dict[str, list[str]]:
    answers: dict[str, list[str]] = {}
    for row in rows:
        answers.setdefault(row.question, []).append(row.answer)
    return answers


def _rng(task: int, seed: int, split: str) -> np.random.Generator:
    return np.random.default_rng([task, seed, int(split == "test")])
