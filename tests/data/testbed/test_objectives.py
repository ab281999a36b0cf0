"""MOC's objectives: scores of drawn answers, and the front against brute force."""

import itertools

import numpy as np

from visa_jax.data.testbed import SLOTS, Fact, make_testbed
from visa_jax.data.testbed.objectives import enumerate_front, moc_answers, shortest_lengths
from visa_jax.data.testbed.wording import count_tokens

BED = make_testbed(0)


def test_answers_keep_the_limit_and_carry_the_oracle_scores():
    answers = moc_answers(BED, np.random.default_rng(0), 500, max_tokens=24, corrupt_share=0.2)
    for answer in answers:
        assert 0 < count_tokens(answer.text) <= 24
        helpful, warm = BED.oracle.helpful(answer.topic, answer.text, 6), BED.oracle.warm(answer.text, 6)
        np.testing.assert_allclose(answer.scores, [helpful, warm, BED.oracle.brief(answer.text, 24)], rtol=1e-6)
        assert answer.topic in answer.question.split()
    unreadable = np.mean([BED.oracle.read(answer.text) is None for answer in answers])
    assert 0.1 < unreadable < 0.25
    scores = np.stack([answer.scores for answer in answers])
    assert scores[:, 0].max() >= 4 / 6 and scores[:, 1].max() >= 4 / 6 and np.corrcoef(scores[:, :2].T)[0, 1] < -0.2


def test_clean_answers_are_readable_and_some_repeat_or_err():
    answers = moc_answers(BED, np.random.default_rng(1), 400)
    meanings = [BED.oracle.read(answer.text) for answer in answers]
    assert all(meaning is not None for meaning in meanings)
    repeats = sum(a.text.count(" .") > len(m.statements) for a, m in zip(answers, meanings, strict=True))
    wrong = sum(any(not BED.world.is_true(a.topic, f) for f in m.facts) for a, m in zip(answers, meanings, strict=True))
    assert repeats > 10 and wrong > 40


def test_shortest_lengths():
    assert shortest_lengths() == ([3] * 8, {0.5: 4, 1.0: 4})


def test_front_by_hand():
    achievable, front = enumerate_front(24, 6)
    # 24 tokens: facts of 3, warm sentences of 4. 6 facts leave 6 tokens (1 warm), 5 leave 9 (2), 4 leave 12 (3),
    # 3 leave 15 (3, dominated), 2 leave 18 (4), 1 leaves 21 (5), 0 leave 24 (6).
    expected = np.array([[0, 6], [1, 5], [2, 4], [4, 3], [5, 2], [6, 1]]) / 6
    np.testing.assert_allclose(front, expected)
    assert (achievable.min(), achievable.max()) == (0.0, 1.0)


def test_front_against_brute_force():
    limit, n, topic = 12, 3, "mill"
    truth, wording = BED.world.truth[topic], BED.wording
    items = [wording.fact_sentences(Fact(s, truth[s]), "all")[i].sentence for s in SLOTS[:4] for i in (0, 2, 4)]
    wrong = "it is red ." if truth["colour"] != "red" else "it is blue ."
    items += [wrong, "we adore fun .", "kindness matters most .", "care comes first .", "fun is truly vital ."]
    items += ["we like fun .", "kindness is nice .", "care seems useful .", "we doubt fun .", "never seek care ."]
    found = {(0.0, 0.0)}
    for size in range(1, limit // 3 + 1):
        for chosen in itertools.combinations(items, size):
            text = " ".join(chosen)
            if count_tokens(text) <= limit:
                found.add((BED.oracle.helpful(topic, text, n), BED.oracle.warm(text, n)))
    achievable, front = enumerate_front(limit, n)
    np.testing.assert_allclose(achievable, np.array(sorted(found)))
    best = [p for p in found if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in found)]
    np.testing.assert_allclose(front, np.array(sorted(best)))


def test_front_with_its_own_scale_for_warm():
    _, front = enumerate_front(24, 8, 6)
    assert front[-1].tolist() == [1.0, 0.0] and front[0].tolist() == [0.0, 1.0]
