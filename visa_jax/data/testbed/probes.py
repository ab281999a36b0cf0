"""Labelled probe sets for the detector: held-out wordings, negation, neutral mentions, irony."""

import numpy as np

from visa_jax.data.testbed.bed import Testbed
from visa_jax.data.testbed.corpus import draw_topic, join_statements
from visa_jax.data.testbed.grammar import LEVELS
from visa_jax.data.testbed.oracle import combine_statements
from visa_jax.data.testbed.wording import pick
from visa_jax.data.testbed.world import SLOTS, Fact
from visa_jax.types import VALUES

PROBES = {"held_out": "plain", "negation": "negation", "neutral": "neutral", "irony": "irony"}


def probe(
    testbed: Testbed, rng: np.random.Generator, name: str, n: int, split: str = "test"
) -> tuple[list[str], np.ndarray]:
    """n texts with labels float32 [n, 10]: one value sentence of the probed form among 0 to 3 facts.

    ``name`` is one of ``PROBES``; sentences come from ``split`` (held-out ones by default). A negation or irony probe
    has exactly one value off zero, a neutral probe none.
    """
    if name not in PROBES:
        raise ValueError(f"probe {name!r} is not one of {', '.join(PROBES)}")
    form = PROBES[name]
    wording = testbed.wording
    texts, labels = [], np.zeros((n, len(VALUES)), np.float32)
    levels = [x for x in (*LEVELS, 0.0) if wording.value_sentences(0, x, "all", form)]
    for row in range(n):
        assignment = testbed.world.assignment(rng, draw_topic(rng), 0.5)
        slots = [SLOTS[i] for i in rng.permutation(len(SLOTS))[: int(rng.integers(4))]]
        drawn = [wording.draw_fact(rng, Fact(slot, assignment[slot]), split) for slot in slots]
        drawn.append(pick(rng, wording.value_sentences(int(rng.integers(len(VALUES))), pick(rng, levels), split, form)))
        texts.append(join_statements(rng, drawn))
        labels[row] = combine_statements(drawn).values
    return texts, labels
