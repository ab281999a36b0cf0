"""What rewards and what judges: the reading parts that a config names, each a run of ours or a Hugging Face directory.

A part that reads texts is here one of two things: the parameters of a run of ``supervise`` (read by the program of its
role, in training from the policy's ids), or a function of texts: of a Hugging Face directory, of a run that gave one a
head of its own, and of every judge that a config names. ``Readers`` take either (``reading``); as rewards the one is a
``Reward``, the other ``TextReward``.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from visa_jax.cli.runs import HUGGINGFACE, Run, open_run, reward_and_judge
from visa_jax.config import UserError, from_config_dict, load_config, require
from visa_jax.data.source import Source
from visa_jax.data.sources.sentences import split_sentences
from visa_jax.data.tokenizer import decode_batch
from visa_jax.evaluation.run import Readers, make_readers
from visa_jax.evaluation.texts import make_text_fn, make_window_fn
from visa_jax.models.classifiers import Classifier, load_classifier, open_classifier
from visa_jax.models.encoder_hf import require_mean
from visa_jax.models.hub import local_directory
from visa_jax.models.readers import hold
from visa_jax.rewards import classes, nli, similarity
from visa_jax.rewards.base import TextReward, Texts
from visa_jax.rewards.entailment import make_entailment
from visa_jax.rewards.reward_model import make_text_reward
from visa_jax.rewards.value_match import make_text_value_match
from visa_jax.training.roles import RoleConfig, role_functions, stop_id
from visa_jax.types import EndId, Params, Rollout

CONSISTENCIES = ("nli", "embedding")
INPUTS = ("pair", "answer")
MADE_BY = "visa-jax supervise"
Model = Any  # Params of a run, or a function of texts


@dataclasses.dataclass(frozen=True)
class ReadingConfig:
    """How Hugging Face reward models are read; runs of ours settle it themselves."""

    inputs: tuple[str, ...] = ()  # of each: pair (question and answer) | answer; () = pair for all
    labels: tuple[str, ...] = ()  # of each: the class that rewards, "" where a model has one class; () = "" for all
    score: str = "logit"  # logit | log_odds, of that class

    def __post_init__(self):
        for each in self.inputs:
            require(each in INPUTS, "inputs", f"{each!r} is not one of {', '.join(INPUTS)}")
        require(self.score in classes.SCORES, "score", f"{self.score!r} is not one of {', '.join(classes.SCORES)}")

    def check(self, field: str, models: Sequence[str]) -> None:
        """FieldError unless the lists are empty or as long as that of the models."""
        for name, given in (("inputs", self.inputs), ("labels", self.labels)):
            fits = len(given) in (0, len(models))
            require(fits, f"{field}.{name}", f"{len(given)} entries for {len(models)} reward models")

    def of(self, k: int) -> dict[str, str]:
        """The arguments of ``open_reward`` for model k."""
        return {
            "inputs": self.inputs[k] if self.inputs else "pair",
            "label": self.labels[k] if self.labels else "",
            "score": self.score,
        }


class Parts(NamedTuple):
    """The reading parts of a run."""

    readers: Readers
    functions: dict[str, Callable | None]  # detector, entailment, reward_model of the runs that reward; None: of texts
    rewarders: tuple[Model, ...]
    judges: tuple[Model, ...]
    text_rewards: dict[str, TextReward]  # by the name of the reward
    notes: tuple[str, ...]  # what has no independent judge


class _Pair(NamedTuple):
    fn: Callable | None  # of the run that rewards
    rewarder: Model
    judge: Model
    note: str | None


def open_visa_parts(config: Any, source: Source, *, on_host: bool = False) -> Parts:
    """Detector and analyzer of a ``VisaTrainConfig`` with their judges, and the embedder where a reward needs it.

    ``on_host``: parameters of runs of ours stay there; a program gets them for as long as it reads.

    UserError naming the field of the first that is missing, damaged or cannot be what it is named for.
    """
    runs, texts = config.runs, {}
    analyze = functools.partial(open_analyzer, consistency=config.consistency)
    held = dict(dtype=config.loop.reward_dtype, on_host=on_host)
    detector = _open_pair(source, "detector", runs.detector, runs.judge_detector, open_detector, **held)
    analyzer = _open_pair(source, "analyzer", runs.analyzer, runs.judge_analyzer, analyze, **held)
    if callable(detector.rewarder):
        texts["value"] = TextReward("value", make_text_value_match(detector.rewarder, kind=config.value_reward))
    if callable(analyzer.rewarder):
        texts["consistency"] = TextReward("consistency", nli.make_text_consistency(analyzer.rewarder))
    if "similarity" in config.visa.reward_names:
        embed = open_embedder(runs.embedder, "config.runs.embedder")
        texts["similarity"] = TextReward("similarity", similarity.make_similarity(embed))
    functions = {"detector": detector.fn, "entailment": analyzer.fn}
    readers = reading(make_readers(source, detector.fn, analyzer.fn, None))
    return _parts(readers, functions, [detector, analyzer], texts)


def open_moc_parts(config: Any, source: Source, *, on_host: bool = False) -> Parts:
    """The reward models of a ``MocTrainConfig`` with their judges. ``on_host`` and UserError as ``open_visa_parts``."""
    runs, pairs = config.runs, []
    for k, directory in enumerate(runs.rewards):
        judge = runs.judge_rewards[k] if runs.judge_rewards else ""
        openers = [functools.partial(open_reward, **one.of(k)) for one in (runs.reading, runs.judge_reading)]
        chosen = dict(index=k, dtype=config.loop.reward_dtype, on_host=on_host)
        pairs.append(_open_pair(source, "reward_model", directory, judge, *openers, **chosen))
    texts = {
        name: TextReward(name, make_text_reward(pair.rewarder))
        for name, pair in zip(config.moc.reward_names, pairs, strict=True)
        if callable(pair.rewarder)
    }
    score = next((pair.fn for pair in pairs if pair.fn is not None), None)  # all runs of ours share one program
    return _parts(reading(make_readers(source, None, None, score)), {"reward_model": score}, pairs, texts)


def reading(readers: Readers) -> Readers:
    """Readers that take functions of texts, too, where they take the parameters of a run."""

    def either(read: Callable) -> Callable:
        return lambda model, *texts: model(*texts) if callable(model) else read(model, *texts)

    return Readers(*map(either, readers))


def make_texts_fn(tokenizer: Any, end_id: EndId) -> Callable[[Rollout], Texts]:
    """``texts(rollout) -> Texts``: contexts and completions as the policy's tokenizer writes them."""

    def texts(rollout: Rollout) -> Texts:
        prompts, rows = rollout.prompts, len(rollout.completion_BT)
        group = rows // len(prompts.context_NS)
        context_N = decode_batch(tokenizer, np.asarray(prompts.context_NS), np.asarray(prompts.context_mask_NS))
        completion_B = decode_batch(tokenizer, np.asarray(rollout.completion_BT), np.asarray(rollout.mask_BT), end_id)
        condition_BM = np.repeat(np.asarray(prompts.condition_NM), group, axis=0)
        return Texts([context_N[row // group] for row in range(rows)], completion_B, condition_BM)

    return texts


def role_of(run: Run) -> RoleConfig:
    """The role config that a supervised run was made with."""
    return from_config_dict(RoleConfig, run.config.role, f"{run.workdir}/config.json: role")


def is_huggingface(directory: str | Path) -> bool:
    """Whether a directory is one of Hugging Face: its config.json names a model_type."""
    return (Path(directory) / "config.json").is_file() and "model_type" in load_config(directory)


def reads_texts(directory: str | Path) -> bool:
    """Whether what reads there takes texts: a Hugging Face directory, or a run that gave one a head of its own."""
    return is_huggingface(directory) or (Path(directory) / HUGGINGFACE / "config.json").is_file()


# Each of the next three opens a Hugging Face classifier, or a run of its role on a published model; ``twin`` says which
# of a run's two models.


def open_detector(directory: str | Path, field: str, twin: int = 0) -> Callable:
    """``values(texts) -> value [n, 10]`` of a classifier (``rewards/classes.py:make_value_reading``)."""
    with _named(field, directory):
        model, tokenizer = _load(directory, field, "detector", twin)
        values = classes.make_value_reading(model.labels, model.problem)
    logits = make_text_fn(model.classify, model.params, tokenizer, max_length=model.max_length)
    return lambda texts: values(logits(texts))


def open_analyzer(directory: str | Path, field: str, twin: int = 0, *, consistency: str) -> Callable:
    """``(F, B) = entailment(sources, texts)`` of an NLI classifier, or of text embeddings."""
    if consistency == "embedding" and is_huggingface(directory):
        pair_fn = similarity.make_pair_similarity(open_embedder(directory, field), split_sentences)
    else:
        pair_fn = open_pair_entailment(directory, field, twin)
    return nli.make_sentence_entailment(pair_fn, split_sentences)


def open_pair_entailment(directory: str | Path, field: str, twin: int = 0) -> Callable:
    """``p(premises, sentences) -> [n]`` of an NLI classifier: the probability of entailment."""
    with _named(field, directory):
        model, tokenizer = _load(directory, field, "analyzer", twin)
        column = nli.entailment_column(model.labels)
    judge = make_window_fn(model.classify, model.params, tokenizer, max_length=model.max_length)
    return nli.make_pair_entailment(judge, column)


def open_reward(
    directory: str, field: str, twin: int = 0, *, inputs: str = "pair", label: str = "", score: str = "logit"
) -> Callable:
    """``reward(questions, answers) -> [n]`` of a classifier; ``inputs`` says whether it reads both."""
    with _named(field, directory):
        model, tokenizer = _load(directory, field, "reward_model", twin)
        column = classes.reward_column(model.labels, label)
    logits = make_text_fn(model.classify, model.params, tokenizer, max_length=model.max_length)

    def reward(questions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        sides = (questions, answers) if inputs == "pair" else (answers,)
        return classes.class_score(logits(*sides), column, score)

    return reward


def open_embedder(directory: str | Path, field: str) -> Callable:
    """``embed(texts) -> [n, D]`` of length 1, of a Hugging Face encoder: the mean of its states."""
    require(bool(directory), field, "is empty; name the directory of an encoder, or a model of the hub")
    where = local_directory(directory, field)
    with _named(field, directory):
        require_mean(where)
        model, tokenizer = load_classifier(where)
        if model.embed is None:
            raise UserError("a decoder has no text embeddings")
    return make_text_fn(model.embed, model.params, tokenizer, max_length=model.max_length)


def _load(directory: str | Path, field: str, role: str, twin: int) -> tuple[Classifier, Any]:
    """A classifier with its tokenizer."""
    if is_huggingface(directory):
        model, tokenizer = load_classifier(directory)
        if model.classify is None:
            raise UserError("it has no classes (architecture ...ForSequenceClassification)")
        return model, tokenizer
    found = open_run(directory, field, role)
    return open_classifier(found.workdir / HUGGINGFACE, reward_and_judge(found)[twin], found.tokenizer), found.tokenizer


def _open_pair(
    source: Source,
    role: str,
    directory: str,
    judge: str,
    open_fn: Callable,
    open_judge_fn: Callable | None = None,
    *,
    dtype: str,
    on_host: bool,
    index: int | None = None,
) -> _Pair:
    """A part that rewards and what judges it: another that is named, else the run's twin, else, with a note, itself.

    ``dtype`` is that of the parameters of a run that rewards; what judges stays float32.
    """
    keep = jax.device_get if on_host else lambda params: params
    name, end = (role, "") if index is None else ("rewards", f"[{index}]")
    field, judge_field = f"config.runs.{name}{end}", f"config.runs.judge_{name}{end}"
    fn, note = None, None
    where = local_directory(directory, field, MADE_BY)
    if reads_texts(where):
        rewarder = twin = open_fn(where, field)
        independent = not is_huggingface(where) and bool(load_config(where).role.twins)
        if independent:
            twin = open_fn(where, field, 1)
    else:
        run = open_run(where, field, role, made_by=MADE_BY)
        fn, independent = _role_fn(source, run, role), bool(run.config.role.twins)
        rewarder, twin = reward_and_judge(run)
        rewarder, twin = keep(hold(rewarder, dtype)), keep(twin)
    if judge and Path(judge).resolve() != Path(directory).resolve():
        judge_fn = open_judge_fn or open_fn
        return _Pair(fn, rewarder, _open_judge(source, role, judge, judge_field, judge_fn, keep), None)
    if not independent:
        note = f"{judge_field} names no independent judge: {directory} judges what it rewarded"
    return _Pair(fn, rewarder, twin, note)


def _open_judge(
    source: Source, role: str, directory: str, field: str, open_fn: Callable, keep: Callable[[Params], Params]
) -> Callable:
    """A judge as a function of texts. Of a run with twins the first is taken, where ``keep`` puts it."""
    where = local_directory(directory, field, MADE_BY)
    if reads_texts(where):
        return open_fn(where, field)
    run = open_run(where, field, role, made_by=MADE_BY)
    fns = [_role_fn(source, run, role) if role == each else None for each in _READERS]
    read = make_readers(source, *fns)[_READERS.index(role)]
    return functools.partial(read, keep(reward_and_judge(run)[0]))


_READERS = ("detector", "analyzer", "reward_model")  # roles in the order of ``Readers`` and ``make_readers``


def _role_fn(source: Source, run: Run, role: str) -> Callable:
    """The function of a run that ``make_readers`` takes."""
    fn = role_functions(source, role_of(run))[role]
    return make_entailment(*fn, stop_id=stop_id(source)) if role == "analyzer" else fn


def _parts(readers: Readers, functions: dict, pairs: list[_Pair], texts: dict[str, TextReward]) -> Parts:
    rewarders, judges = tuple(pair.rewarder for pair in pairs), tuple(pair.judge for pair in pairs)
    return Parts(readers, functions, rewarders, judges, texts, tuple(pair.note for pair in pairs if pair.note))


@contextmanager
def _named(field: str, directory: str | Path) -> Iterator[None]:
    """A UserError within is told with the field and the directory."""
    try:
        yield
    except UserError as error:
        told = str(error)
        raise UserError(f"{field}: {told if told.startswith(str(directory)) else f'{directory}: {told}'}") from None
