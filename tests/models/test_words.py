"""The word detector against its arithmetic, and the ridge solution against its own equations."""

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.models.words import first_uses, make_word_detector, solve_word_detector

DETECT = jax.jit(make_word_detector())


def rows_of(*texts):
    """Token ids [B, T] and mask; id 0 pads."""
    length = max(map(len, texts))
    token_BT = np.array([[*text, *[0] * (length - len(text))] for text in texts])
    return token_BT, np.array([[i < len(text) for i in range(length)] for text in texts])


def random_texts(seed, rows=40, vocab=12, values=3):
    rng = np.random.default_rng(seed)
    token_BT = rng.integers(vocab, size=(rows, 7))
    mask_BT = np.arange(7)[None] < rng.integers(1, 8, size=(rows, 1))
    return token_BT, mask_BT, np.round(rng.uniform(-1, 1, (rows, values)), 2)


def test_a_reading_is_the_visible_sum():
    params = {
        "rarity": jnp.array([0.0, 3.0, 4.0, 1.0]),
        "kernel": jnp.array([[9.0], [0.5], [-0.25], [2.0]]),
        "bias": jnp.array([0.1]),
    }
    token, mask = rows_of([1, 2], [1, 1, 2, 1], [1], [])
    # |r| of {1, 2} is 5: .1 + 3/5 * .5 - 4/5 * .25 = .2; of {1} alone .1 + .5; of nothing the bias
    found = DETECT(params, token, mask)
    np.testing.assert_allclose(found.value_BM[:, 0], [0.2, 0.2, 0.6, 0.1], atol=1e-6)
    np.testing.assert_allclose(found.presence_BM, np.abs(found.value_BM), atol=0)
    strong = params | {"kernel": 10 * params["kernel"]}
    np.testing.assert_allclose(DETECT(strong, token, mask).value_BM[2], [1.0])


def test_first_uses_count_a_token_once():
    token, mask = rows_of([5, 6, 5, 6, 7], [0, 0])
    np.testing.assert_array_equal(first_uses(token, mask), [[1, 1, 0, 0, 1], [1, 0, 0, 0, 0]])


def test_order_repetition_and_padding_change_nothing():
    token, mask, value = random_texts(0)
    params = solve_word_detector(token, mask, value, vocab_size=12, ridge=1.0)
    plain = DETECT(params, *rows_of([1, 2, 3], [4, 5])).value_BM
    np.testing.assert_allclose(plain, DETECT(params, *rows_of([3, 1, 2, 2, 3], [5, 4])).value_BM, atol=1e-6)


def test_the_solution_has_no_gradient_left():
    """d/dk and d/db of sum |v - label|^2 + ridge |k|^2 vanish, at the rarities that the solver counted."""
    token, mask, value = random_texts(1)
    ridge = 0.7
    params = solve_word_detector(token, mask, value, vocab_size=12, ridge=ridge)
    assert float(jnp.max(jnp.abs(DETECT(params, token, mask).value_BM))) < 1  # nothing is clipped

    def objective(learned):
        found = make_word_detector()(params | learned, token, mask).value_BM
        return jnp.sum((found - value) ** 2) + ridge * jnp.sum(learned["kernel"] ** 2)

    gradient = jax.grad(objective)({name: params[name] for name in ("kernel", "bias")})
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0.0, atol=2e-5)


def test_both_systems_give_one_solution():
    token, mask, value = random_texts(2, rows=9)
    small, large = (solve_word_detector(token % 9, mask, value, vocab_size=v, ridge=1.0) for v in (9, 40))
    for name, leaf in small.items():
        np.testing.assert_allclose(leaf, large[name][:9] if name != "bias" else large[name], atol=1e-5)


def test_equal_texts_count_once_and_a_strong_ridge_gives_the_mean():
    token, mask, value = random_texts(3)
    once = solve_word_detector(token, mask, value, vocab_size=12, ridge=1.0)
    thrice = solve_word_detector(*(np.tile(x, (3, 1)) for x in (token, mask, value)), vocab_size=12, ridge=1.0)
    for name, leaf in once.items():
        np.testing.assert_allclose(leaf, thrice[name], atol=1e-5)
    flat = solve_word_detector(token, mask, value, vocab_size=12, ridge=1e8)
    np.testing.assert_allclose(DETECT(flat, token, mask).value_BM, np.tile(value.mean(0), (40, 1)), atol=1e-4)


def test_a_word_that_decides_is_found():
    """Texts with token 3 are for the value, with token 4 against it; the rest is noise."""
    rng = np.random.default_rng(4)
    token = rng.integers(5, 60, size=(300, 8))
    sign = rng.choice([-1.0, 0.0, 1.0], size=300)
    token[:, 2] = np.where(sign > 0, 3, np.where(sign < 0, 4, token[:, 2]))
    params = solve_word_detector(token[:200], np.ones((200, 8), bool), sign[:200, None], vocab_size=60, ridge=0.5)
    read = np.asarray(DETECT(params, token[200:], np.ones((100, 8), bool)).value_BM[:, 0])
    assert np.corrcoef(read, sign[200:])[0, 1] > 0.95
