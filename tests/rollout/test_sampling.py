"""Sampling against known probabilities, truncation by hand, log-probabilities as an update recomputes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from visa_jax.rollout import sample_token
from visa_jax.rollout.sampling import mark, penalize, truncate

PROBS = np.array([0.4, 0.3, 0.2, 0.1])


def kept(**choice):
    return np.isfinite(truncate(jnp.log(jnp.asarray(PROBS, jnp.float32))[None], **choice))[0].tolist()


def test_truncation_by_hand():
    assert kept() == [True] * 4
    assert kept(top_k=2) == [True, True, False, False]
    assert kept(top_p=0.65) == [True, True, False, False]  # .4 < .65 <= .7
    assert kept(top_p=0.75) == [True, True, True, False]  # .7 < .75
    assert kept(top_p=0.0) == [True, False, False, False]  # the best always stays
    assert kept(min_p=0.6) == [True, True, False, False]  # .24 <= .3
    assert kept(top_k=3, top_p=0.5) == [True, True, False, False]  # top-p over .4/.9, .3/.9, .2/.9


@pytest.mark.parametrize(
    "temperature, choice", [(1.0, {}), (0.5, {}), (2.0, {}), (1.0, dict(top_k=2)), (1.0, dict(top_p=0.75))]
)
def test_samples_follow_the_distribution(temperature, choice):
    """Chi-square of 20,000 draws from one fixed key; a wrong tempering or truncation is off by hundreds."""
    logits = jnp.tile(jnp.log(jnp.asarray(PROBS, jnp.float32))[None], (20_000, 1))
    token, _ = sample_token(jax.random.key(0), logits, temperature=temperature, **choice)
    expected = PROBS ** (1 / temperature) * kept(**choice)
    expected = expected / expected.sum() * len(token)
    counts = np.bincount(token, minlength=4)
    assert (counts[expected == 0] == 0).all()
    held = expected > 0
    assert stats.chisquare(counts[held], expected[held]).pvalue > 1e-3


def test_rows_draw_independently():
    logits = jnp.zeros((4000, 2))
    token, _ = sample_token(jax.random.key(3), logits)
    pairs = np.bincount(2 * token[0::2] + token[1::2], minlength=4)
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_rows_of_equal_noise_draw_alike_and_others_independently():
    """2000 rows of which each stands twice, in another order: the twins agree, neighbours do not."""
    noise = np.concatenate([np.arange(2000), np.random.default_rng(0).permutation(2000)])
    token, _ = sample_token(jax.random.key(3), jnp.zeros((4000, 2)), noise_B=jnp.asarray(noise))
    token = np.asarray(token)
    np.testing.assert_array_equal(token[2000:], token[noise[2000:]])
    pairs = np.bincount(2 * token[0:2000:2] + token[1:2000:2], minlength=4)
    assert stats.chisquare(pairs).pvalue > 1e-3
    alone, _ = sample_token(jax.random.key(3), jnp.zeros((1, 2)), noise_B=jnp.asarray([7]))
    assert alone[0] == token[7]


def test_logp_is_before_truncation_at_the_sampling_temperature():
    logits = jnp.log(jnp.asarray(PROBS, jnp.float32))[None]
    token, logp = sample_token(jax.random.key(0), logits, temperature=0.5, top_k=1)
    squares = PROBS**2
    assert token[0] == 0
    np.testing.assert_allclose(logp, np.log(squares[0] / squares.sum()), rtol=1e-5)


def test_greedy_and_top_1_agree_and_greedy_logp_is_at_temperature_1():
    logits = jax.random.normal(jax.random.key(1), (50, 30))
    greedy, logp = sample_token(jax.random.key(2), logits, temperature=0.0)
    top_1, _ = sample_token(jax.random.key(2), logits, temperature=1.7, top_k=1)
    np.testing.assert_array_equal(greedy, jnp.argmax(logits, axis=-1))
    np.testing.assert_array_equal(greedy, top_1)
    np.testing.assert_allclose(logp, jnp.max(jax.nn.log_softmax(logits), axis=-1), atol=1e-5)


@pytest.mark.parametrize("vocab", [5, 128, 300])
def test_greedy_takes_the_first_of_the_largest_wherever_it_stands(vocab):
    """Few levels, so that most rows have ties within and between blocks of the vocabulary."""
    logits = jax.random.randint(jax.random.key(vocab), (200, vocab), 0, 4).astype(jnp.float32)
    logits = logits.at[:20].set(-jnp.inf).at[:20, vocab - 2].set(-1.0)  # one possible token
    token, _ = sample_token(jax.random.key(0), logits, temperature=0.0)
    np.testing.assert_array_equal(token, np.argmax(logits, axis=-1))


def test_impossible_tokens_are_never_drawn():
    logits = jnp.tile(jnp.array([[-jnp.inf, 0.0, -jnp.inf, 0.0, -jnp.inf]]), (5000, 1))
    token, logp = sample_token(jax.random.key(5), logits)
    assert set(np.unique(token)) == {1, 3}
    np.testing.assert_allclose(logp, np.log(0.5), rtol=1e-5)


def test_repetition_penalty_by_hand():
    """Divided where positive, multiplied where negative, and only where seen; 0 stays 0."""
    logits = jnp.array([[3.0, -3.0, 3.0, -3.0, 0.0]])
    seen = jnp.array([[True, True, False, False, True]])
    np.testing.assert_allclose(penalize(logits, seen, 1.5), [[2.0, -4.5, 3.0, -3.0, 0.0]])
    np.testing.assert_allclose(penalize(logits, seen, 0.5), [[6.0, -1.5, 3.0, -3.0, 0.0]])


def test_penalty_is_that_of_transformers():
    """RepetitionPenaltyLogitsProcessor written out: gather the scores of input_ids, change them, scatter them back."""
    rng = np.random.default_rng(0)
    scores, input_ids = rng.normal(size=(3, 12)).astype(np.float32), rng.integers(0, 12, (3, 7))
    score = np.take_along_axis(scores, input_ids, axis=1)
    score = np.where(score < 0, score * 1.3, score / 1.3)
    expected = scores.copy()
    np.put_along_axis(expected, input_ids, score, axis=1)
    seen = mark(jnp.zeros((3, 12), bool), jnp.asarray(input_ids), jnp.ones((3, 7), bool))
    np.testing.assert_allclose(penalize(jnp.asarray(scores), seen, 1.3), expected, rtol=1e-6)


def test_padding_marks_nothing_and_marks_stay():
    seen = mark(jnp.zeros((2, 4), bool), jnp.array([[1, 0], [2, 2]]), jnp.array([[True, False], [True, False]]))
    np.testing.assert_array_equal(seen, [[0, 1, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_array_equal(
        mark(seen, jnp.array([[3], [2]]), jnp.array([[True], [False]])), [[0, 1, 0, 1], [0, 0, 1, 0]]
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_penalized_samples_follow_the_distribution_and_logp_does_not(temperature):
    """Token 0 is seen: its logit log .4 < 0 doubles before the temperature; logp is what an update recomputes."""
    logits = jnp.tile(jnp.log(jnp.asarray(PROBS, jnp.float32))[None], (20_000, 1))
    seen = jnp.zeros(logits.shape, bool).at[:, 0].set(True)
    token, logp = sample_token(jax.random.key(0), logits, temperature=temperature, repetition_penalty=2.0, seen_BV=seen)
    expected = np.array([0.4**2, *PROBS[1:]]) ** (1 / temperature)
    counts = np.bincount(token, minlength=4)
    assert stats.chisquare(counts, expected / expected.sum() * len(token)).pvalue > 1e-3
    plain = PROBS ** (1 / temperature)
    np.testing.assert_allclose(logp, np.log(plain / plain.sum())[np.asarray(token)], rtol=1e-5)


def test_greedy_takes_the_largest_penalized_logit():
    logits, seen = jnp.array([[2.0, 1.5, -1.0]]), jnp.array([[True, False, False]])
    token, logp = sample_token(jax.random.key(0), logits, temperature=0.0, repetition_penalty=1.5, seen_BV=seen)
    assert token[0] == 1  # 2 / 1.5 < 1.5
    np.testing.assert_allclose(logp, [jax.nn.log_softmax(logits[0])[1]], rtol=1e-5)


def test_one_key_for_each_row_draws_as_the_rows_would_alone():
    keys, noise = jax.random.split(jax.random.key(3), 50), jnp.arange(50)
    token, _ = sample_token(keys, jnp.zeros((50, 64)), noise_B=noise)
    alone = [sample_token(keys[i], jnp.zeros((1, 64)), noise_B=noise[i : i + 1])[0][0] for i in range(3)]
    np.testing.assert_array_equal(token[:3], jnp.stack(alone))
    assert len(np.unique(token)) > 20
