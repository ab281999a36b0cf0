"""Wishes in plain words with the shift of the value vector that they ask for: "a bit more daring , much less wealth".

A wish is one to three clauses about different values, in a wrapper ("please make it ..."). A clause is a pattern with
a degree and a word: |shift| is 1/2 ("a bit"), 1 ("more"), 1 1/2 ("much more") or 2 ("as ... as possible").
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from visa_jax.data.testbed.grammar import KEYWORDS_BY_VALUE
from visa_jax.data.testbed.wording import held_out_grid, normalise, pick
from visa_jax.types import VALUES

ADJECTIVES: dict[str, tuple[str, ...]] = {
    "Self-Direction": ("independent", "free", "curious", "creative"),
    "Stimulation": ("daring", "adventurous", "exciting", "bold"),
    "Hedonism": ("joyful", "cheerful", "indulgent", "playful"),
    "Achievement": ("ambitious", "successful", "skilful", "competent"),
    "Power": ("powerful", "wealthy", "dominant", "commanding"),
    "Security": ("safe", "cautious", "careful", "secure"),
    "Conformity": ("obedient", "polite", "disciplined", "restrained"),
    "Tradition": ("traditional", "humble", "devout", "customary"),
    "Benevolence": ("kind", "loyal", "caring", "honest"),
    "Universalism": ("fair", "tolerant", "peaceful", "wise"),
}
# Patterns for nouns (keywords and the names of the values), and for adjectives, by shift.
NOUN_PATTERNS: dict[float, tuple[str, ...]] = {
    0.5: ("a bit more {w}", "slightly more {w}", "a little more {w}", "a bit more bound to {w}"),
    1.0: ("more {w}", "more bound to {w}", "add {w}", "with more {w}"),
    1.5: ("much more {w}", "far more {w}", "a lot more {w}", "much more bound to {w}"),
    2.0: ("as much {w} as possible", "the most {w}", "nothing but {w}", "{w} above all"),
    -0.5: ("a bit less {w}", "slightly less {w}", "a little less {w}", "a bit less bound to {w}"),
    -1.0: ("less {w}", "less bound to {w}", "remove some {w}", "with less {w}"),
    -1.5: ("much less {w}", "far less {w}", "a lot less {w}", "much less bound to {w}"),
    -2.0: ("as little {w} as possible", "the least {w}", "no {w} at all", "nothing about {w}"),
}
ADJECTIVE_PATTERNS: dict[float, tuple[str, ...]] = {
    0.5: ("a bit more {w}", "slightly more {w}", "a little more {w}"),
    1.0: ("more {w}", "be more {w}", "sound more {w}"),
    1.5: ("much more {w}", "far more {w}", "a lot more {w}"),
    2.0: ("as {w} as possible", "the most {w}", "utterly {w}"),
    -0.5: ("a bit less {w}", "slightly less {w}", "a little less {w}"),
    -1.0: ("less {w}", "be less {w}", "sound less {w}"),
    -1.5: ("much less {w}", "far less {w}", "a lot less {w}"),
    -2.0: ("as little {w} as possible", "the least {w}", "not {w} at all"),
}
WRAPPERS = ("{c}", "{c}", "{c}", "please {c}", "i want {c}", "make it {c}", "rewrite it : {c}", "i would like {c}")
NEUTRAL_WISHES = (
    "keep it as it is",
    "no change please",
    "leave it alone",
    "keep the facts",
    "fix the spelling",
    "change nothing",
    "use other words",
    "swap the sentences",
    "make it shorter",
    "do not change the facts",
    "just repeat it",
    "say it again",
)
TAILS = ("keep the facts", "keep it short", "do not change the facts")  # what may follow ", but"
ALWAYS_TRAINED = ("more daring", "less bound to tradition")  # the README's example is never held out
SHIFTS = (-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0)


class Wish(NamedTuple):
    """A wish and the shift it asks for."""

    text: str
    shift: np.ndarray  # float32 [10] in [-2, 2]


def draw_shift(rng: np.random.Generator, counts: tuple[int, ...] = (1, 2, 3)) -> np.ndarray:
    """float32 [10]: 1 to 3 values shifted by 1/2, 1, 1 1/2 or 2 either way, the others 0 (visa.md section 3)."""
    shift = np.zeros(len(VALUES), np.float32)
    for value in rng.permutation(len(VALUES))[: pick(rng, counts)]:
        shift[value] = pick(rng, SHIFTS)
    return shift


def draw_shift_from(rng: np.random.Generator, current: np.ndarray, most_nonzero: int = 3, least_move: float = 0.5):
    """A shift whose clipped target has at most ``most_nonzero`` values off 0 (so that a text can state it) and moves.

    ``current`` float [10] in [-1, 1] is rounded to halves first: a detector's reading is never exact. Half of the
    drawn values are ones that ``current`` has, else a rewrite would hardly ever take a value back.
    """
    rounded = np.round(2 * np.clip(current, -1, 1)) / 2
    held = np.flatnonzero(rounded)
    while True:
        shift = draw_shift(rng)
        if held.size and rng.random() < 0.5:
            shift[held[int(rng.integers(held.size))]] = pick(rng, SHIFTS)
        target = np.clip(rounded + shift, -1, 1)
        if np.count_nonzero(target) <= most_nonzero and np.abs(target - rounded).max() >= least_move:
            return shift


@dataclasses.dataclass(frozen=True)
class Wishes:
    """All clauses with their shifts, split like the sentences of texts (see wording.py)."""

    seed: int = 0
    meanings: dict[str, tuple[int, float]] = dataclasses.field(init=False, repr=False)
    _clauses: dict = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        rng = np.random.default_rng([self.seed, 3])
        meanings: dict[str, tuple[int, float]] = {}
        held_meanings: set[str] = set()
        for value, name in enumerate(VALUES):
            nouns = (*KEYWORDS_BY_VALUE[value], *({normalise(name)} - set(KEYWORDS_BY_VALUE[value])))
            for words, patterns in ((nouns, NOUN_PATTERNS), (ADJECTIVES[name], ADJECTIVE_PATTERNS)):
                for shift, forms in patterns.items():
                    held = held_out_grid(rng, len(words), len(forms))
                    for (row, column), out in np.ndenumerate(held):
                        clause = forms[column].replace("{w}", words[row])
                        if out and clause not in meanings and clause not in ALWAYS_TRAINED:
                            held_meanings.add(clause)
                        meanings[clause] = value, shift
        clauses: dict = {}
        for clause, (value, shift) in meanings.items():
            split = "test" if clause in held_meanings else "train"
            for key in (split, "all"):
                clauses.setdefault((value, shift, key), []).append(clause)
        object.__setattr__(self, "meanings", meanings)
        object.__setattr__(self, "_clauses", clauses)

    def clauses(self, value: int, shift: float, split: str) -> list[str]:
        """All wordings of one shift of one value."""
        return self._clauses[value, float(shift), split]

    def write(self, rng: np.random.Generator, shift: np.ndarray, split: str = "train") -> str:
        """A wish for ``shift`` [10]; a neutral one for the zero vector."""
        drawn = [pick(rng, self.clauses(int(v), shift[v], split)) for v in np.flatnonzero(shift)]
        if not drawn:
            return pick(rng, NEUTRAL_WISHES)
        drawn = [drawn[i] for i in rng.permutation(len(drawn))]
        text = drawn[0] + "".join(pick(rng, (" , ", " and ", " , and ")) + clause for clause in drawn[1:])
        text = pick(rng, WRAPPERS).replace("{c}", text)
        if rng.random() < 0.15:
            text += " , but " + pick(rng, TAILS)
        return text

    def draw(
        self, rng: np.random.Generator, n: int, split: str = "train", neutral_share: float = 0.1
    ) -> tuple[list[str], np.ndarray]:
        """n wishes with their shifts float32 [n, 10]."""
        shifts = [np.zeros(10, np.float32) if rng.random() < neutral_share else draw_shift(rng) for _ in range(n)]
        texts = [self.write(rng, shift, split) for shift in shifts]
        return texts, np.stack(shifts) if shifts else np.zeros((0, len(VALUES)), np.float32)
