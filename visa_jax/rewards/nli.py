"""Consistency by a published NLI classifier: the Fact Analyzer where premise and hypothesis are texts (VISA notes 4).

As in ``entailment.py``, F = p(y_orig => y) is low where something was invented, B = p(y => y_orig) where something was
omitted, and C = (F + B)/2; a hypothesis is judged sentence by sentence, and p is the mean over its sentences. Where the
premise does not fit the model's window, each sentence is judged against the best of several windows of it. An NLI model
does not tell claims from other sentences, so every sentence counts as one.
"""

from collections.abc import Callable, Sequence

import numpy as np

from visa_jax.config import UserError
from visa_jax.rewards.base import Texts, says

ENTAILMENT = "entailment"


def entailment_column(labels: Sequence[str]) -> int:
    """Which class is entailment, by its name in whatever case. UserError where none is called so."""
    found = [i for i, label in enumerate(labels) if label.lower() == ENTAILMENT]
    if len(found) != 1:
        raise UserError(f"no class is called {ENTAILMENT!r} (id2label: {', '.join(labels) or 'none'})")
    return found[0]


def make_pair_entailment(judge_fn: Callable, column: int) -> Callable:
    """``p(premises, hypotheses) -> [n]``: softmax probability of class ``column``, by the best window of the premise.

    ``judge_fn`` is that of ``evaluation/texts.py:make_window_fn``: (logits [W, classes], pair of each window int [W]).
    """

    def probability(premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        logits_WC, owner_W = judge_fn(premises, hypotheses)
        share_WC = np.exp(logits_WC - logits_WC.max(axis=1, keepdims=True))
        best_N = np.zeros(len(premises), np.float32)
        np.maximum.at(best_N, owner_W, share_WC[:, column] / share_WC.sum(axis=1))
        return best_N

    return probability


def make_sentence_entailment(pair_fn: Callable, split_fn: Callable[[str], list[str]]) -> Callable:
    """``(F, B) = entailment(sources, texts)``, [n] each, in [0, 1]: F = p(source => text), B = p(text => source).

    Args:
      pair_fn: ``(premises, sentences) -> [m]`` in [0, 1], how far a premise supports a sentence.
      split_fn: text -> its sentences; those without a letter or digit claim nothing and are left out.

    A hypothesis without sentences scores 0, so that saying nothing does not look faithful, and a premise without any
    supports nothing.
    """

    def entailment(sources: Sequence[str], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        premises, hypotheses = [*sources, *texts], [*texts, *sources]
        said = [
            [sentence for sentence in split_fn(hypothesis) if says(sentence)] if says(premise) else []
            for premise, hypothesis in zip(premises, hypotheses, strict=True)
        ]
        count_N = np.array([len(sentences) for sentences in said])
        total_N = np.zeros(len(said), np.float32)
        if count_N.any():
            owner = np.repeat(np.arange(len(said)), count_N)
            support = pair_fn([premises[i] for i in owner], [sentence for sentences in said for sentence in sentences])
            np.add.at(total_N, owner, support)
        forward_N, backward_N = np.split(total_N / np.maximum(count_N, 1).astype(np.float32), 2)
        return forward_N, backward_N

    return entailment


def make_text_consistency(entailment_fn: Callable) -> Callable[[Texts], np.ndarray]:
    """Reward C = (F + B)/2 in [0, 1] between the context (y_orig) and the completion."""

    def score(texts: Texts) -> np.ndarray:
        forward_B, backward_B = entailment_fn(texts.context, texts.completion)
        return (forward_B + backward_B) / 2

    return score
