"""Quality of a supervised part on held-out rows, by its role; what ``supervise`` prints and the report shows."""

from collections.abc import Callable

import jax
import numpy as np

from visa_jax.data.rows import claim_pairs, entailment_rows, text_rows
from visa_jax.data.source import Source
from visa_jax.evaluation.quality import analyzer_report, detector_report, reward_report, translator_report
from visa_jax.evaluation.run import by_rows
from visa_jax.types import Params

ROWS = 512


def measure_part(role: str, models: dict[str, Callable], source: Source, params: Params, objective: int = 0) -> dict:
    """Quality of one model (not of twins) of ``role``; {} for language models, whose held-out loss says it all.

    Args:
      models: role -> its pure function, see ``training/roles.py:role_functions``.
      objective: column of the labels, for a reward model.
    """
    measure = {"detector": _detector, "translator": _translator, "analyzer": _analyzer}.get(role)
    if role == "reward_model":
        return _reward(models[role], source, params, objective)
    return measure(models[role], source, params) if measure else {}


def measure_reader(role: str, read_fn: Callable, source: Source, objective: int = 0) -> dict:
    """Quality of a published model with a head of ``role``, as it reads texts.

    Args:
      read_fn: detector: texts -> values [n, 10]; analyzer: premises, sentences -> probability of entailment [n];
        reward_model: questions, answers -> rewards [n].
    """
    if role == "detector":
        return detector_report(read_fn, source, ROWS)
    if role == "analyzer":
        premises, sentences, label = claim_pairs(source.pairs(ROWS, 77, "test"))
        return {"sentence_accuracy": float(((read_fn(premises, sentences) > 0.5) == label).mean())}
    drawn = source.scored(ROWS, 77, "test")
    predicted = read_fn([d.question for d in drawn], [d.text for d in drawn])
    return reward_report(predicted, np.array([d.scores[objective] for d in drawn]))


def _read(detect_fn: Callable, source: Source, params: Params, length: int) -> Callable:
    program = jax.jit(lambda params, token, mask: detect_fn(params, token, mask).value_BM)

    def read(texts: list[str]) -> np.ndarray:
        rows = text_rows(source.tokenizer, texts, length)
        return by_rows(program, params, (rows["token"], rows["mask"]), 128)

    return read


def _detector(detect_fn: Callable, source: Source, params: Params) -> dict:
    return detector_report(_read(detect_fn, source, params, source.lengths.text), source, ROWS)


def _translator(detect_fn: Callable, source: Source, params: Params) -> dict:
    read = _read(detect_fn, source, params, source.lengths.wish)
    return translator_report(lambda texts: 2 * read(texts), source, ROWS)


def _analyzer(functions: tuple[Callable, Callable], source: Source, params: Params) -> dict:
    encode, compare = functions
    rows = entailment_rows(source.tokenizer, source.pairs(ROWS, 77, "test"), source.lengths.text)

    def logits(params, premise, premise_mask, token, mask):
        sides = ((premise, premise_mask), (token, mask))
        out = compare(params, *((*side, encode(params, *side)) for side in sides))
        return jax.numpy.stack([out.claim_BT, out.entailed_BT], axis=-1)

    names = ("premise_token", "premise_mask", "token", "mask")
    both = by_rows(jax.jit(logits), params, [rows[name] for name in names], 128)
    return analyzer_report(both[..., 0], both[..., 1], rows)


def _reward(score_fn: Callable, source: Source, params: Params, objective: int) -> dict:
    drawn = source.scored(ROWS, 77, "test")
    asked = text_rows(source.tokenizer, [d.question for d in drawn], source.lengths.question)
    said = text_rows(source.tokenizer, [d.text for d in drawn], source.lengths.answer)
    arrays = (asked["token"], asked["mask"], said["token"], said["mask"])
    predicted = by_rows(jax.jit(score_fn), params, arrays, 128)
    return reward_report(predicted, np.array([d.scores[objective] for d in drawn]))
