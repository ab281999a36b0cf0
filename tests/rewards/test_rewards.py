"""Rewards on hand-made rollouts; the arithmetic stands beside each expectation."""

import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.rewards.base import Reward, stack_rewards, text_tokens
from visa_jax.rewards.entailment import claim_mean, make_consistency, make_entailment
from visa_jax.rewards.reward_model import make_learned_reward
from visa_jax.rewards.rules import make_format, make_length, make_token_share
from visa_jax.rewards.value_match import make_value_match, value_reward
from visa_jax.training.update import completion_metrics
from visa_jax.types import PromptBatch, Rollout

PAD, END, STOP = 0, 2, 9


def make_rollout(completions, contexts=((5, 9),), conditions=((1.0, 0.0),), width=6) -> Rollout:
    """Completions as written; what follows their end token is padding."""
    rows = len(completions)
    token = np.full((rows, width), PAD, np.int32)
    mask = np.zeros((rows, width), bool)
    for row, ids in enumerate(completions):
        token[row, : len(ids)], mask[row, : len(ids)] = ids, True
    length = max(map(len, contexts))
    context = np.array([list(c) + [PAD] * (length - len(c)) for c in contexts], np.int32)
    prompts = PromptBatch(
        prompt_NL=np.ones((len(contexts), 2), np.int32),
        prompt_mask_NL=np.ones((len(contexts), 2), bool),
        condition_NM=jnp.asarray(conditions),
        context_NS=context,
        context_mask_NS=context != PAD,
    )
    return Rollout(prompts=prompts, completion_BT=token, mask_BT=mask, logp_BT=np.zeros((rows, width), np.float32))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cos", (1 + 0.6) / 2),  # cos((3, 4), (1, 0)) = .6
        ("l2", 1 - np.hypot(0.3 - 1, 0.4) / 2),
        ("cos+l2", ((1 + 0.6) / 2 + 1 - np.hypot(0.7, 0.4) / 2) / 2),
    ],
)
def test_value_reward(kind, expected):
    reward = value_reward(jnp.array([[0.3, 0.4]]), jnp.array([[1.0, 0.0]]), kind)
    np.testing.assert_allclose(reward, [expected], rtol=1e-6)


def test_zero_target_has_no_direction():
    """Without a direction the distance decides: 1 - .5/2, whatever the kind."""
    for kind in ("cos", "l2", "cos+l2"):
        np.testing.assert_allclose(value_reward(jnp.array([[0.3, 0.4]]), jnp.zeros((1, 2)), kind), [0.75], rtol=1e-6)


def test_value_match_reads_the_text_without_its_end_token():
    """The detector here counts token 5; the target of a prompt holds for all rows of its group."""

    def detect(params, token_BT, mask_BT):
        count_B = jnp.sum((token_BT == 5) & mask_BT, axis=1)
        ended_B = jnp.sum((token_BT == END) & mask_BT, axis=1)
        return jnp.stack([count_B / 2.0, ended_B * 1.0], axis=1)

    rollout = make_rollout([[5, 5, END], [7, END]], conditions=((1.0, 0.0),))
    reward = make_value_match(detect, end_id=END, kind="l2")((), rollout)
    np.testing.assert_allclose(reward, [1.0, 0.5], rtol=1e-6)  # distances 0 and 1


def test_claim_mean():
    """Two claims of certainty 1 with p = .5 and .25, and an opinion that does not count: .375; no claim: 0."""
    sure, logit = 30.0, lambda p: np.log(p / (1 - p))
    claim = jnp.array([[sure, 0.0, sure, -sure], [-sure, -sure, -sure, -sure]])
    entailed = jnp.array([[logit(0.5), 0.0, logit(0.25), sure], [sure, sure, sure, sure]])
    stop = jnp.array([[True, False, True, True], [True, True, True, True]])
    np.testing.assert_allclose(claim_mean(claim, entailed, stop), [0.375, 0.0], atol=1e-6)


def test_consistency_is_the_mean_of_both_directions():
    """Facts are single tokens before a stop; a perfect analyzer gives F = 1/2 and B = 1/3."""

    class Logits:
        def __init__(self, entailed_BT):
            self.entailed_BT = entailed_BT
            self.claim_BT = jnp.full(entailed_BT.shape, 30.0)

    def encode(params, token_BT, mask_BT):
        return token_BT

    def compare(params, premise, hypothesis):
        fact_BT = jnp.concatenate([jnp.zeros_like(hypothesis[0][:, :1]), hypothesis[0][:, :-1]], axis=1)
        found_BT = jnp.any((fact_BT[:, :, None] == premise[0][:, None, :]) & premise[1][:, None, :], axis=2)
        return Logits(jnp.where(found_BT, 30.0, -30.0))

    score = make_consistency(make_entailment(encode, compare, stop_id=STOP), end_id=END)
    rollout = make_rollout([[5, STOP, 8, STOP, END]], contexts=((5, STOP, 6, STOP, 7, STOP),))
    np.testing.assert_allclose(score((), rollout), [(1 / 2 + 1 / 3) / 2], rtol=1e-6)


def test_format():
    good, unfinished, cut, empty = [5, STOP, END], [5, END], [5, STOP], [END]
    reward = make_format(end_id=END, stop_id=STOP)((), make_rollout([good, unfinished, cut, empty], contexts=((5, 9),)))
    np.testing.assert_array_equal(reward, [0, -1, -1, -1])


def test_several_end_tokens():
    """A reader sees none of them, whichever ended the row; the mask of the rollout keeps it."""
    rollout = make_rollout([[5, STOP, END], [5, STOP, 8], [5, 6, STOP]], contexts=((5, 9),))
    _, mask_BT = text_tokens(rollout, (END, 8))
    np.testing.assert_array_equal(mask_BT[:, :3], [[1, 1, 0], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(make_format(end_id=(END, 8), stop_id=STOP)((), rollout), [0, 0, -1])
    told = completion_metrics(rollout, (END, 8))
    assert (float(told["completions/clipped_ratio"]), int(told["completions/min_length"])) == (pytest.approx(1 / 3), 3)


def test_length_is_free_within_the_tolerance():
    """|y_orig| = 3: with 5 tokens log(6/4) = log 1.5 is free, with 1 token log(2/4) costs log 2 - log 1.5."""
    rollout = make_rollout([[5] * 5 + [END], [5, END]], contexts=((5, 6, 9),))
    reward = make_length(end_id=END)((), rollout)
    np.testing.assert_allclose(reward, [0.0, -(np.log(2) - np.log(1.5))], atol=1e-6)


def test_token_share():
    rollout = make_rollout([[5, 6, 5, 7, END]])
    np.testing.assert_allclose(make_token_share(tokens=(5, 7), end_id=END)((), rollout), [3 / 4])


def test_learned_reward_never_sees_the_condition():
    """The model gets the question of the context; a changed preference changes nothing."""

    def score(params, question_NS, question_mask_NS, answer_BT, mask_BT):
        return jnp.sum(jnp.where(mask_BT, answer_BT, 0), axis=1) + jnp.sum(question_NS) * params

    reward = make_learned_reward(score, end_id=END)
    told = [make_rollout([[5, 6, END]], conditions=(c,)) for c in ((1.0, 0.0), (0.0, 1.0))]
    np.testing.assert_allclose([reward(2.0, r)[0] for r in told], [11 + 2 * 14] * 2)


def test_stack_keeps_order_and_mixes_nothing():
    constant = [Reward(str(c), lambda p, rollout: jnp.full(rollout.completion_BT.shape[0], p), c) for c in (0.25, 3.0)]
    scored = stack_rewards(tuple(constant))((0.25, 3.0), make_rollout([[5, END], [6, END]]))
    np.testing.assert_allclose(scored.reward_BK, [[0.25, 3.0], [0.25, 3.0]])
