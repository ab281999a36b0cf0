"""The embedded testbed: a small written world whose truth is known."""

from visa_jax.data.testbed.bed import Testbed, make_testbed
from visa_jax.data.testbed.oracle import Meaning, Oracle
from visa_jax.data.testbed.wording import Statement, Wording, normalise
from visa_jax.data.testbed.world import FILLERS, SLOTS, TOPICS, Fact, World

__all__ = [
    "FILLERS",
    "SLOTS",
    "TOPICS",
    "Fact",
    "Meaning",
    "Oracle",
    "Statement",
    "Testbed",
    "Wording",
    "World",
    "make_testbed",
    "normalise",
]
