"""Rewards of texts on hand-made readers; the arithmetic stands beside each expectation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from visa_jax.config import UserError
from visa_jax.rewards.base import Reward, TextReward, Texts, score_texts, stack_rewards
from visa_jax.rewards.classes import class_score, make_value_reading, reward_column
from visa_jax.rewards.nli import (
    entailment_column,
    make_pair_entailment,
    make_sentence_entailment,
    make_text_consistency,
)
from visa_jax.rewards.reward_model import make_text_reward
from visa_jax.rewards.similarity import make_pair_similarity, make_similarity, similarity
from visa_jax.rewards.value_match import make_text_value_match
from visa_jax.types import VALUES, PromptBatch, Rollout


def split(text):
    return [sentence.strip() for sentence in text.split(".") if sentence]


def stated(premises, sentences):
    """A perfect reader: a sentence is entailed where the premise states it."""
    return np.array([float(s in split(p)) for p, s in zip(premises, sentences, strict=True)], np.float32)


def test_consistency_is_the_mean_over_sentences_in_both_directions():
    """Of y's two sentences one is in y_orig: F = 1/2; of y_orig's three one is in y: B = 1/3."""
    entailment = make_sentence_entailment(stated, split)
    forward, backward = entailment(["a. b. c."] * 2, ["a. d.", "c. a. b."])
    np.testing.assert_allclose(forward, [1 / 2, 1.0], rtol=1e-6)
    np.testing.assert_allclose(backward, [1 / 3, 1.0], rtol=1e-6)
    texts = Texts(["a. b. c."] * 2, ["a. d.", "c. a. b."], np.zeros((2, 1)))
    np.testing.assert_allclose(make_text_consistency(entailment)(texts), [5 / 12, 1.0], rtol=1e-6)


def test_texts_that_say_nothing_are_no_consistency():
    """Even of a reader that finds everything entailed; rows beside them keep their figures."""
    entailment = make_sentence_entailment(lambda premises, sentences: np.ones(len(sentences)), split)
    for side in entailment(["a. b.", "a.", "", "a."], ["", " . !", "", "a. b. c."]):
        np.testing.assert_array_equal(side, [0, 0, 0, 1])
    for side in entailment(["", "."], [".", ""]):  # nothing at all is asked of the reader
        np.testing.assert_array_equal(side, [0, 0])


def test_the_best_window_decides():
    """Softmax of logits (log 1, log 2, log p'): p'/(3 + p'); of windows with p' = 1, 6 and 3 the second: 6/9."""
    logits = np.log(np.array([[1, 2, 1], [1, 2, 6], [1, 2, 3], [1, 2, 7]]) * 1e3)
    probability = make_pair_entailment(lambda premises, hypotheses: (logits, np.array([0, 0, 0, 1])), 2)
    np.testing.assert_allclose(probability(["a", "b"], ["c", "d"]), [6 / 9, 7 / 10], rtol=1e-6)


def test_entailment_is_found_by_its_name():
    assert entailment_column(("contradiction", "neutral", "entailment")) == 2
    assert entailment_column(("ENTAILMENT", "NOT_ENTAILMENT")) == 0
    for labels in (("LABEL_0", "LABEL_1"), ("not_entailment",), ("entailment", "Entailment"), ()):
        with pytest.raises(UserError, match="no class is called 'entailment'"):
            entailment_column(labels)


ANGLES = {"a": 0.0, "b": 60.0, "c": 90.0, "d": 180.0}


def embed(texts):
    turned = np.radians([ANGLES[text] for text in texts])
    return np.stack([np.cos(turned), np.sin(turned)], axis=1)


def test_similarity_is_the_cosine_where_that_is_positive():
    np.testing.assert_allclose(similarity(embed("aaaa"), embed("abcd")), [1, 0.5, 0, 0], atol=1e-12)
    texts = Texts(["a", "a", "."], ["a", "b", "a"], np.zeros((3, 1)))
    score = make_similarity(lambda texts: embed(["a" if t == "." else t for t in texts]))
    np.testing.assert_allclose(score(texts), [1, 0.5, 0], atol=1e-6)


def test_the_most_similar_sentence_of_the_premise_counts():
    """b lies 60 degrees from a and 30 from c: cos 30; a is itself in the second premise."""
    support = make_pair_similarity(embed, split)
    np.testing.assert_allclose(support(["a.c", "d.a.c"], ["b", "a"]), [np.sqrt(3) / 2, 1], atol=1e-6)
    forward, backward = make_sentence_entailment(support, split)(["a.c"], ["b"])
    np.testing.assert_allclose(forward, [np.sqrt(3) / 2], rtol=1e-6)
    np.testing.assert_allclose(backward, [(1 / 2 + np.sqrt(3) / 2) / 2], rtol=1e-6)


def test_log_odds_of_a_class():
    """p = softmax(log 2, log 3, log 5) = (.2, .3, .5): log-odds of the last log(.5/.5) = 0, of the first log(2/8)."""
    logits = np.log(np.array([[2.0, 3.0, 5.0]])) + 4
    np.testing.assert_allclose(class_score(logits, 2, "log_odds"), [0], atol=1e-6)
    np.testing.assert_allclose(class_score(logits, 0, "log_odds"), [np.log(2 / 8)], atol=1e-6)
    np.testing.assert_allclose(class_score(logits, 0, "logit"), [np.log(2) + 4])
    np.testing.assert_allclose(class_score(logits[:, :1], 0, "log_odds"), [np.log(2) + 4])


def test_the_class_that_rewards():
    assert reward_column(("LABEL_0",), "") == 0 and reward_column(("NEG", "POS"), "POS") == 1
    with pytest.raises(UserError, match="has 2 classes and no label says which rewards .id2label: NEG, POS"):
        reward_column(("NEG", "POS"), "")
    for labels in (("NEG", "POS"), ("LABEL_0",)):
        with pytest.raises(UserError, match="no class is called 'good'"):
            reward_column(labels, "good")


def test_values_are_found_by_their_names_in_any_order():
    """sigmoid(log 3) = 3/4, sigmoid(-log 3) = 1/4, sigmoid(0) = 1/2."""
    names = [value.lower().replace("-", "_") for value in reversed(VALUES)]
    logits = np.log(3) * np.array([[-1.0, 1.0, *[0.0] * 7, 1.0]])
    expected = [3 / 4, *[1 / 2] * 7, 3 / 4, 1 / 4]
    np.testing.assert_allclose(make_value_reading(names, "")(logits)[0], expected, rtol=1e-6)
    clipped = make_value_reading(names, "regression")(np.linspace(-1.8, 0.9, 10)[None])
    np.testing.assert_allclose(clipped[0], np.maximum(np.linspace(0.9, -1.8, 10), -1), atol=1e-12)


def test_values_with_two_sides_are_signed():
    """The first value is attained (3/4) and not constrained (1/4): 1/2; the last the other way round."""
    labels = [f"{value} {end}" for end in ("constrained", "attained") for value in VALUES]
    logits = np.zeros((1, 20))
    logits[0, [0, 10, 9, 19]] = np.log(3) * np.array([-1, 1, 1, -1])
    np.testing.assert_allclose(make_value_reading(labels, "")(logits)[0], [0.5, *[0] * 8, -0.5], atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "problem", "message"),
    [
        (VALUES[:9], "", "has 9 classes"),
        ((*VALUES[:9], "Kindness"), "", "no class is called 'Universalism'"),
        (tuple(f"LABEL_{i}" for i in range(10)), "", "no class is called 'Self-Direction'"),
        (VALUES, "single_label_classification", "exclude one another"),
    ],
)
def test_classes_that_are_no_values(labels, problem, message):
    with pytest.raises(UserError, match=message):
        make_value_reading(labels, problem)


def test_value_match_and_reward_models_read_texts():
    texts = Texts(["q", "r"], ["aa", "b"], np.array([[1.0, 0.0], [0.0, 0.5]], np.float32))
    match = make_text_value_match(lambda said: np.array([[len(t) / 2, 0.0] for t in said]), kind="l2")
    np.testing.assert_allclose(match(texts), [1.0, 1 - np.sqrt(0.5) / 2], rtol=1e-6)  # (1/2, 0) against (0, 1/2)
    reward = make_text_reward(
        lambda asked, said: np.array([f"{a}{b}" == "qaa" for a, b in zip(asked, said, strict=True)])
    )
    np.testing.assert_array_equal(reward(texts), [1, 0])


ROWS = (("aa", "x"), ("bbb", "x"), ("c", "yy"), ("d", "yy"))  # completion, context


def make_rollout() -> Rollout:
    """Ids that are no more than row numbers; ``read_texts`` gives them texts."""
    prompts = PromptBatch(
        prompt_NL=jnp.zeros((4, 1), jnp.int32),
        prompt_mask_NL=jnp.ones((4, 1), bool),
        condition_NM=jnp.zeros((4, 1)),
        context_NS=jnp.zeros((4, 1), jnp.int32),
        context_mask_NS=jnp.ones((4, 1), bool),
    )
    ids = jnp.arange(4, dtype=jnp.int32)[:, None]
    return Rollout(prompts=prompts, completion_BT=ids, mask_BT=ids >= 0, logp_BT=jnp.zeros((4, 1)))


def read_texts(rollout):
    rows = [ROWS[int(row)] for row in np.asarray(rollout.completion_BT)[:, 0]]
    return Texts([context for _, context in rows], [said for said, _ in rows], np.zeros((4, 1)))


REWARDS = (
    Reward("row", lambda params, rollout: rollout.completion_BT[:, 0] * params, 0.5),
    TextReward("length", lambda texts: np.array([len(t) for t in texts.completion])),
    TextReward("both", lambda texts: np.array([len(a + b) for a, b in zip(*texts[:2], strict=True)])),
)
EXPECTED = [[0, 2, 3], [0.5, 3, 4], [1, 1, 3], [1.5, 1, 3]]


def test_text_rewards_stand_in_their_columns_and_change_no_other():
    scored = jax.jit(stack_rewards(REWARDS))((0.5, (), ()), make_rollout())
    assert np.isnan(scored.reward_BK[:, 1:]).all()
    filled = score_texts(REWARDS, scored, read_texts)
    np.testing.assert_allclose(filled.reward_BK, EXPECTED)
    assert filled.rollout is scored.rollout and filled.reward_BK.sharding == scored.reward_BK.sharding


def test_without_text_rewards_nothing_comes_to_the_host():
    scored = object()
    assert score_texts(REWARDS[:1], scored, None) is scored


def test_rewards_lie_as_the_programs_left_them():
    """Rows cut over a mesh, and the leading device axis of pmap, whose rows are dealt: (0, 2) and (1, 3)."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    scored = jax.jit(stack_rewards(REWARDS), out_shardings=rows)((0.5, (), ()), make_rollout())
    filled = score_texts(REWARDS, scored, read_texts)
    np.testing.assert_allclose(filled.reward_BK, EXPECTED)
    assert filled.reward_BK.sharding.is_equivalent_to(rows, 2)

    dealt = jax.tree.map(lambda x: jnp.stack([x[np.array([0, 2])], x[np.array([1, 3])]]), make_rollout())
    scored = jax.pmap(stack_rewards(REWARDS), devices=jax.devices()[:2])((jnp.full(2, 0.5), (), ()), dealt)
    filled = score_texts(
        REWARDS, scored, read_texts, lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
    )
    np.testing.assert_allclose(filled.reward_BK, [[EXPECTED[0], EXPECTED[2]], [EXPECTED[1], EXPECTED[3]]])
    assert dataclasses.asdict(filled).keys() == dataclasses.asdict(scored).keys()
    assert filled.reward_BK.sharding == scored.reward_BK.sharding
