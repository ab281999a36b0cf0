"""The reading roles on published models: which texts each reads, which classes it has, and what it learns.

What ``roles`` is for the small readers over the source's own ids. A published encoder or decoder brings its tokenizer
and the head that transformers gives it (``models/classifiers.py``), so what comes out is a classifier like any other:

``detector``      a text -> the ten values themselves (problem_type regression)
``analyzer``      a premise and one sentence -> entailment or not, as NLI models are asked (rewards/nli.py)
``reward_model``  a question and an answer -> one number (problem_type regression)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.data.rows import Rows, claim_pairs
from visa_jax.data.source import Source
from visa_jax.data.tokenizer import pad_encoded, pad_id
from visa_jax.losses import entailment, value_regression
from visa_jax.models.classifiers import Headed
from visa_jax.rewards.nli import ENTAILMENT
from visa_jax.training import tasks
from visa_jax.training.roles import RoleConfig, need, role_seeds
from visa_jax.training.supervised import Task, row_batches, twin_batches
from visa_jax.types import VALUES, Array, Params, WeightedSum

Sides = tuple[Sequence[str], ...]  # n texts, or n texts and their seconds


class ReadingSpec(NamedTuple):
    """What a reading role is on a published model."""

    labels: tuple[str, ...]  # names of the classes
    problem: str  # problem_type
    texts: Callable[[Source, RoleConfig, int, str], tuple[Sides, np.ndarray]]  # (source, config, seed, split)
    loss: Callable[[Array, Array], WeightedSum]  # (logits_BC, label) -> over rows


def _values(source: Source, config: RoleConfig, seed: int, split: str) -> tuple[Sides, np.ndarray]:
    texts, value = need(source, "labelled")(config.rows, seed, split)
    return (texts,), np.asarray(value, np.float32)


def _claims(source: Source, config: RoleConfig, seed: int, split: str) -> tuple[Sides, np.ndarray]:
    premises, sentences, label = claim_pairs(need(source, "pairs")(config.rows, seed, split))
    return (premises, sentences), label


def _answers(source: Source, config: RoleConfig, seed: int, split: str) -> tuple[Sides, np.ndarray]:
    drawn = need(source, "scored")(config.rows, seed, split)
    label = np.array([one.scores[config.objective] for one in drawn], np.float32)
    return ([one.question for one in drawn], [one.text for one in drawn]), label


READING = {
    "detector": ReadingSpec(VALUES, "regression", _values, value_regression),
    "analyzer": ReadingSpec(
        (ENTAILMENT, "not_entailment"),
        "single_label_classification",
        _claims,
        # the softmax of two is the sigmoid of their difference
        lambda logits_BC, label_B: entailment(logits_BC[:, 0] - logits_BC[:, 1], label_B),
    ),
    "reward_model": ReadingSpec(
        ("reward",), "regression", _answers, lambda logits_BC, label_B: tasks.squared_error(logits_BC[:, 0], label_B)
    ),
}


def make_reading_task(config: RoleConfig, source: Source, start: Headed) -> Task:
    """The task of a reading role on a published model; ``draw_start`` gives the parameters that it begins with."""
    seeds = role_seeds(config)
    each = reading_rows(config, source, start, seeds, "train")
    batches = [row_batches(rows, config.fit.batch_size, seed) for rows, seed in zip(each, seeds, strict=True)]
    return Task(
        name=config.role,
        init=start.init,
        loss=tasks.classifier_loss(start.classifier.classify, READING[config.role].loss),
        batch=twin_batches(batches) if config.twins else batches[0],
        twins=config.twins,
    )


def draw_start(config: RoleConfig, start: Headed, key: Array) -> Params:
    """What training begins with; twins share the trunk's parameters and have heads of their own, on a leading axis."""
    if not config.twins:
        return start.init(key)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(start.init, jax.random.split(key, config.twins)))


def reading_rows(config: RoleConfig, source: Source, start: Headed, seeds: Sequence[int], split: str) -> list[Rows]:
    """Rows for each seed, all of one width: ``token``, ``mask``, ``type`` [n, T] and ``label``.

    A text is read as ``evaluation/texts.py`` reads it: by the model's tokenizer, what is beyond its window left out.
    """
    drawn = [READING[config.role].texts(source, config, seed, split) for seed in seeds]
    tokenizer, window = start.tokenizer, start.classifier.max_length
    encoded = [tokenizer(*sides, truncation=True, max_length=window) for sides, _ in drawn]
    width = max(len(ids) for each in encoded for ids in each["input_ids"]) or 1
    rows = []
    for each, (_, label) in zip(encoded, drawn, strict=True):
        token, mask, kind = pad_encoded(each, (width,), pad_id(tokenizer))
        rows.append({"token": token, "mask": mask, "type": kind, "label": label})
    return rows
