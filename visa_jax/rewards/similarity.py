"""Consistency by text embeddings, for when no NLI model is at hand (VISA notes 4).

A similarity is max(cos, 0), in [0, 1]: 1 for the same text, 0 for unrelated ones, whose cosine is about 0. (1 + cos)/2
would put those at 1/2 and let them through the gate C > 0.3. It sees the topic more than the facts: a negated or
altered fact costs little (LOG.md).
"""

from collections.abc import Callable, Sequence

import numpy as np

from visa_jax.rewards.base import Texts, says

Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> [n, D] of length 1


def similarity(a_BD: np.ndarray, b_BD: np.ndarray) -> np.ndarray:
    """max(a . b, 0) of vectors of length 1, [B] in [0, 1]."""
    return np.clip(np.sum(a_BD * b_BD, axis=-1), 0.0, 1.0)


def make_similarity(embed_fn: Embed) -> Callable[[Texts], np.ndarray]:
    """Reward in [0, 1]: the similarity of the whole context and the whole completion; 0 where either says nothing."""

    def score(texts: Texts) -> np.ndarray:
        found_B = similarity(embed_fn(texts.context), embed_fn(texts.completion))
        said_B = [says(a) and says(b) for a, b in zip(texts.context, texts.completion, strict=True)]
        return np.where(said_B, found_B, 0.0).astype(np.float32)

    return score


def make_pair_similarity(embed_fn: Embed, split_fn: Callable[[str], list[str]]) -> Callable:
    """``support(premises, sentences) -> [n]`` in [0, 1]: of each sentence the largest similarity to one of the premise.

    For ``nli.make_sentence_entailment``, in place of an entailment probability. Premises must
    say something.
    """

    def support(premises: Sequence[str], sentences: Sequence[str]) -> np.ndarray:
        parts = [[s for s in split_fn(premise) if says(s)] for premise in premises]
        owner_W = np.repeat(np.arange(len(parts)), [len(each) for each in parts])
        of_W = embed_fn([s for each in parts for s in each])
        best_N = np.zeros(len(parts), np.float32)
        np.maximum.at(best_N, owner_W, similarity(of_W, embed_fn(sentences)[owner_W]))
        return best_N

    return support
