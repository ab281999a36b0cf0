"""The written language: patterns of fact and value sentences, and the keywords of the ten values.

``{f}`` stands for a filler, ``{k}`` for a keyword; the closing "." of each sentence is not written here. What a
pattern means is declared, not derived: the level beside a value pattern is the truth about it.
"""

from visa_jax.types import VALUES

# Six wordings a slot: two sentences each of 3, 4 and 5 tokens with the closing ".".
FACT_PATTERNS: dict[str, tuple[str, ...]] = {
    "keeper": ("keeper {f}", "{f} leads", "{f} runs it", "run by {f}", "its keeper is {f}", "{f} is in charge"),
    "place": ("in {f}", "{f} based", "found in {f}", "{f} hosts it", "it stands in {f}", "its town is {f}"),
    "opening": ("since {f}", "{f} opening", "opened in {f}", "begun last {f}", "it opened in {f}", "{f} saw it open"),
    "rooms": (
        "{f} rooms",
        "{f} chambers",
        "{f} rooms inside",
        "counts {f} rooms",
        "it has {f} rooms",
        "there are {f} rooms",
    ),
    "colour": ("painted {f}", "{f} walls", "it is {f}", "looks all {f}", "its walls are {f}", "its colour is {f}"),
    "animal": ("{f} inside", "{f} present", "its {f} sleeps", "with a {f}", "a {f} lives there", "it keeps a {f}"),
    "goods": ("sells {f}", "{f} sold", "it sells {f}", "known for {f}", "you can buy {f}", "its goods are {f}"),
    "material": (
        "mostly {f}",
        "{f} built",
        "built of {f}",
        "made from {f}",
        "its frame is {f}",
        "workers used {f} here",
    ),
}

KEYWORDS: dict[str, tuple[str, ...]] = {
    "Self-Direction": ("freedom", "independence", "curiosity", "creativity", "autonomy", "choice"),
    "Stimulation": ("daring", "adventure", "excitement", "novelty", "thrill", "surprise"),
    "Hedonism": ("pleasure", "fun", "enjoyment", "delight", "comfort", "indulgence"),
    "Achievement": ("success", "ambition", "skill", "excellence", "mastery", "competence"),
    "Power": ("wealth", "power", "status", "authority", "influence", "prestige"),
    "Security": ("safety", "stability", "order", "protection", "security", "caution"),
    "Conformity": ("obedience", "politeness", "discipline", "manners", "restraint", "conformity"),
    "Tradition": ("tradition", "custom", "heritage", "ritual", "faith", "humility"),
    "Benevolence": ("kindness", "loyalty", "care", "friendship", "honesty", "helpfulness"),
    "Universalism": ("equality", "justice", "tolerance", "peace", "nature", "wisdom"),
}
KEYWORDS_BY_VALUE: tuple[tuple[str, ...], ...] = tuple(KEYWORDS[name] for name in VALUES)

LEVELS = (-1.0, -0.5, 0.5, 1.0)
FORMS = ("plain", "negation", "irony", "neutral")

# VALUE_PATTERNS[form][level]: sentences of 4 to 6 tokens with the closing ".".
VALUE_PATTERNS: dict[str, dict[float, tuple[str, ...]]] = {
    "plain": {
        1.0: (
            "{k} matters most",
            "{k} comes first",
            "always choose {k}",
            "we adore {k}",
            "{k} means everything",
            "{k} is truly vital",
            "nothing beats pure {k}",
            "we live for {k}",
            "put {k} above all else",
        ),
        0.5: (
            "{k} is nice",
            "we like {k}",
            "{k} seems useful",
            "{k} helps somewhat",
            "enjoy some {k}",
            "{k} is quite nice",
            "a little {k} helps",
            "{k} has its charm",
            "a touch of {k} pleases",
        ),
        -0.5: (
            "{k} seems dull",
            "we doubt {k}",
            "{k} tires us",
            "{k} helps little",
            "skip some {k}",
            "we rarely want {k}",
            "{k} is rather boring",
            "{k} has its faults",
            "too much {k} bothers us",
        ),
        -1.0: (
            "never seek {k}",
            "{k} ruins everything",
            "we despise {k}",
            "reject all {k}",
            "{k} means nothing",
            "{k} is truly harmful",
            "stay away from {k}",
            "{k} deserves no place",
            "{k} is worst of all",
        ),
    },
    "negation": {
        1.0: ("{k} cannot be missed", "no life without {k}", "never give up {k}", "we cannot refuse {k}"),
        0.5: ("{k} is not harmful", "{k} is not dull", "we do not doubt {k}", "{k} never bothers us"),
        -0.5: ("{k} is not vital", "{k} is not nice", "we do not want {k}", "{k} does not help"),
        -1.0: ("{k} must not exist", "we cannot stand {k}", "do not ever choose {k}", "{k} never matters here"),
    },
    "irony": {
        -0.5: ("oh great more {k}", "how lovely {k} again", "oh yes {k} seems useful", "oh please enjoy {k}"),
        -1.0: (
            "oh sure {k} matters most",
            "yeah right {k} comes first",
            "as if {k} mattered",
            "sure we all adore {k}",
        ),
    },
    "neutral": {
        0.0: (
            "people discuss {k}",
            "some study {k}",
            "papers mention {k}",
            "{k} is a word",
            "we define {k}",
            "the topic is {k}",
            "{k} was measured once",
            "they asked about {k}",
        ),
    },
}

QUESTION_PATTERNS = (
    "what is the {t} like ?",
    "tell me about the {t}",
    "describe the {t}",
    "what about the {t} ?",
    "do you know the {t} ?",
    "facts about the {t} ?",
    "introduce the {t} to me",
    "how is the {t} ?",
)
