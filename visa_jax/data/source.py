"""What a body of text offers to every part of the two methods: the testbed and a user's own file look the same.

Every function takes (n, seed, split) and returns the same rows for the same arguments on every machine; ``split`` is
"train" or "test" and the two never share a row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from visa_jax.data.template import Template, make_template
from visa_jax.data.testbed import corpus, objectives, probes
from visa_jax.data.testbed.bed import Testbed, make_testbed
from visa_jax.data.testbed.documents import pretraining_documents
from visa_jax.data.testbed.entailment import pairs
from visa_jax.data.testbed.wishes import Wishes
from visa_jax.data.testbed.world import TOPICS
from visa_jax.data.tokenizer import make_testbed_tokenizer

TWIN_SEED = 1000  # what a held-out judge's seed is above its model's: a finite source gives the two other rows


class Lengths(NamedTuple):
    """Limits in tokens; texts longer than theirs are refused, never cut."""

    question: int
    text: int  # a source or a rewrite, with its end token
    visa_prompt: int
    wish: int
    moc_prompt: int
    answer: int  # MOC's completions, with the end token
    document: int  # a row of packed pretraining text


class Source(NamedTuple):
    """The rows of each task; an entry is None where the source has no labels for it."""

    name: str
    tokenizer: Any
    lengths: Lengths
    template: Template  # how prompts are written
    documents: Callable[[int, int, str], list[str]]
    pack_documents: bool  # several documents in a row of pretraining text
    questions: Callable[[int, int, str], list[str]]
    sources: Callable[[int, int, str], list[tuple[str, str]]]  # (question, answer) pairs to rewrite
    labelled: Callable | None  # -> (texts, value [n, 10])
    wishes: Callable | None  # -> (texts, shift [n, 10])
    pairs: Callable | None  # -> list of EntailmentPair
    visa_pairs: Callable | None  # -> list of (question, source, target, reference)
    scored: Callable | None  # (n, seed, split) -> list of ScoredAnswer, damaged ones among them
    answers: Callable | None  # the same, clean: what MOC's SFT learns
    probes: Callable | None  # (name, n, seed) -> (texts, value)
    topic_of: Callable[[str], str] | None  # of a question, for the oracle
    score_answer: Callable | None  # (topic, text) -> objectives by the oracle
    testbed: Testbed | None  # the oracle, where there is one


def make_testbed_source(seed: int = 0) -> Source:
    """The embedded testbed as a source."""
    testbed, wishes, tokenizer = make_testbed(seed), Wishes(seed), make_testbed_tokenizer()

    def rng(task: int, n_seed: int, split: str) -> np.random.Generator:
        return np.random.default_rng([task, n_seed, int(split == "test")])

    return Source(
        name="testbed",
        tokenizer=tokenizer,
        lengths=Lengths(question=6, text=32, visa_prompt=46, wish=32, moc_prompt=16, answer=25, document=68),
        template=make_template("levels", tokenizer),
        pack_documents=False,
        documents=lambda n, s, split: pretraining_documents(testbed, rng(0, s, split), n, split),
        questions=lambda n, s, split: corpus.questions(testbed, rng(9, s, split), n, split),
        sources=lambda n, s, split: [
            (asked, answer.text) for asked, answer in corpus.sources(testbed, rng(1, s, split), n, split)
        ],
        labelled=lambda n, s, split: corpus.labelled_texts(
            testbed, rng(2, s, split), n, split, short_share=0.5 * (split == "train")
        ),
        wishes=lambda n, s, split: wishes.draw(rng(3, s, split), n, split),
        pairs=lambda n, s, split: pairs(testbed, rng(4, s, split), n, split),
        visa_pairs=lambda n, s, split: corpus.visa_pairs(testbed, rng(5, s, split), n, split),
        scored=lambda n, s, split: objectives.moc_answers(testbed, rng(6, s, split), n, split=split, corrupt_share=0.2),
        answers=lambda n, s, split: objectives.moc_answers(testbed, rng(7, s, split), n, split=split),
        probes=lambda name, n, s: probes.probe(testbed, rng(8, s, "test"), name, n),
        topic_of=lambda asked: next(word for word in asked.split() if word in TOPICS),
        score_answer=lambda topic, text: objectives.score_answer(testbed, topic, text),
        testbed=testbed,
    )
