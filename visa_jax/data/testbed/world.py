"""The written world: topics a question can ask about, slots of facts, and the true filler of each slot.

Every filler word belongs to one slot only, so a fact is ``(slot, filler)`` and a word says which slot it fills.
"""

import dataclasses
from typing import NamedTuple

import numpy as np


class Fact(NamedTuple):
    """One statement about the topic of the question."""

    slot: str
    filler: str


TOPICS = tuple(
    "mill bakery library tavern harbour school museum garden castle farm station theatre market chapel workshop hotel "
    "bridge lighthouse brewery stable forge dairy vineyard orchard observatory gallery pharmacy clinic bank studio "
    "archive greenhouse shipyard quarry bookshop cinema monastery sawmill pottery aquarium".split()
)

_FILLERS = {
    "keeper": "mara otto lena hugo nora felix greta ivan rosa emil tessa boris clara anton",
    "place": "oslo lima cairo paris rome delhi quito tokyo lagos turin kyoto dublin porto riga",
    "opening": "january february march april may june july august september october november december",
    "rooms": "three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
    "colour": "red blue green white black yellow brown grey pink purple orange golden silver crimson",
    "animal": "cat dog goat hen fox horse parrot turtle rabbit sheep donkey pig peacock raven",
    "goods": "bread honey cheese wine tea salt soap candles baskets hats books maps lamps carpets",
    "material": "stone brick oak pine clay glass steel granite marble timber concrete bamboo slate iron",
}
FILLERS: dict[str, tuple[str, ...]] = {slot: tuple(words.split()) for slot, words in _FILLERS.items()}
SLOTS = tuple(FILLERS)


def draw_assignment(rng: np.random.Generator) -> dict[str, str]:
    """A filler for every slot, uniformly at random."""
    return {slot: words[rng.integers(len(words))] for slot, words in FILLERS.items()}


@dataclasses.dataclass(frozen=True)
class World:
    """The truth: ``truth[topic][slot]`` is the filler that is right. Same seed, same world, on every machine."""

    seed: int = 0
    truth: dict[str, dict[str, str]] = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        rng = np.random.default_rng([self.seed, 1])
        object.__setattr__(self, "truth", {topic: draw_assignment(rng) for topic in TOPICS})

    def is_true(self, topic: str, fact: Fact) -> bool:
        """Whether ``fact`` is right about ``topic``."""
        return self.truth[topic][fact.slot] == fact.filler

    def assignment(self, rng: np.random.Generator, topic: str, true_share: float) -> dict[str, str]:
        """A filler per slot: the true one with probability ``true_share``, else any other filler of that slot."""
        drawn = {}
        for slot, words in FILLERS.items():
            right = self.truth[topic][slot]
            others = words.index(right) + 1 + rng.integers(len(words) - 1)
            drawn[slot] = right if rng.random() < true_share else words[others % len(words)]
        return drawn
