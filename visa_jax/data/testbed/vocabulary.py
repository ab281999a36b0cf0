"""Every word that a text, question or wish of the testbed can contain."""

from visa_jax.data.testbed.grammar import (
    FACT_PATTERNS,
    KEYWORDS_BY_VALUE,
    QUESTION_PATTERNS,
    VALUE_PATTERNS,
)
from visa_jax.data.testbed.wishes import (
    ADJECTIVE_PATTERNS,
    ADJECTIVES,
    NEUTRAL_WISHES,
    NOUN_PATTERNS,
    TAILS,
    WRAPPERS,
)
from visa_jax.data.testbed.wording import normalise
from visa_jax.data.testbed.world import FILLERS, TOPICS
from visa_jax.types import VALUES


def vocabulary() -> tuple[str, ...]:
    """Sorted distinct words and punctuation marks; the same for every seed."""
    patterns = [p for group in FACT_PATTERNS.values() for p in group]
    patterns += [p for by_level in VALUE_PATTERNS.values() for group in by_level.values() for p in group]
    patterns += [p for table in (NOUN_PATTERNS, ADJECTIVE_PATTERNS) for group in table.values() for p in group]
    patterns += [*QUESTION_PATTERNS, *WRAPPERS, *NEUTRAL_WISHES, *TAILS]
    words = {word for pattern in patterns for word in pattern.split() if not word.startswith("{")}
    for group in (*FILLERS.values(), *KEYWORDS_BY_VALUE, *ADJECTIVES.values(), TOPICS):
        words.update(group)
    words.update(word for name in VALUES for word in normalise(name).split())
    return tuple(sorted(words | set(". , ?".split()) | {"and", "but"}))
