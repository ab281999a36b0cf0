"""The one supervised loop: fits a known line, twins equal their single runs, epochs use every row once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from visa_jax.config import UserError
from visa_jax.training.optimizer import OptimizerConfig, make_schedule
from visa_jax.training.roles import held_out_loss
from visa_jax.training.supervised import (
    NO_HOOKS,
    FitConfig,
    FitHooks,
    Stopper,
    Task,
    fit,
    learned,
    row_batches,
    start_fit,
    twin,
    twin_batches,
)
from visa_jax.types import WeightedSum

X = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
KEY = jax.random.key(0)
TRUTH = np.array([1.0, -2.0, 0.5], np.float32)
ROWS = {"x": X, "y": X @ TRUTH}


def line_loss(params, batch):
    error = batch["x"] @ params["w"] - batch["y"]
    return WeightedSum(total=jnp.sum(error**2), weight=jnp.float32(error.shape[0])), {}


def line_task(**changes) -> Task:
    fields = dict(name="line", init=lambda key: {"w": jax.random.normal(key, (3,))}, loss=line_loss)
    return Task(**(fields | {"batch": row_batches(ROWS, 16, 0)} | changes))


def train(task, key=0, *, params=None, stopper=None, hooks=NO_HOOKS):
    """(what was learned, summary)."""
    state = start_fit(task, CONFIG, jax.random.key(key), params=params, stopper=stopper)
    state, summary = fit(task, CONFIG, state, stopper=stopper, hooks=hooks)
    return learned(state), summary


CONFIG = FitConfig(steps=150, batch_size=16, optimizer=OptimizerConfig(learning_rate=0.1, decay="cosine"))


def test_fits_the_line():
    params, summary = train(line_task())
    np.testing.assert_allclose(params["w"], TRUTH, atol=1e-2)
    assert summary["steps"] == 150


def test_twins_equal_their_single_runs():
    batches = [row_batches(ROWS, 16, seed) for seed in (0, 1)]
    keys = jax.random.split(jax.random.key(3), 2)
    both, _ = train(line_task(batch=twin_batches(batches), twins=2), 3)
    for i in range(2):
        alone, _ = train(line_task(batch=batches[i]), 9, params=line_task().init(keys[i]))
        np.testing.assert_allclose(twin(both, i)["w"], alone["w"], atol=1e-5)
    assert not np.allclose(both["w"][0], both["w"][1], atol=1e-7)


def test_an_epoch_uses_every_row_once():
    batch = row_batches({"row": np.arange(10)}, 4, seed=5)
    drawn = np.concatenate([batch(step)["row"] for step in range(5)])
    assert sorted(drawn[:10]) == list(range(10)) and sorted(drawn[10:]) == list(range(10))
    assert list(drawn[:10]) != list(drawn[10:])
    np.testing.assert_array_equal(batch(3)["row"], row_batches({"row": np.arange(10)}, 4, seed=5)(3)["row"])


def test_early_stopping_returns_the_best():
    """The held-out loss falls, rises twice: the parameters of its lowest point come back."""
    told = iter([3.0, 1.0, 2.0, 2.5])
    seen = []

    def held_out(params):
        seen.append(np.asarray(params["w"]).copy())
        return next(told)

    params, summary = train(line_task(), stopper=Stopper(held_out, every=10, patience=2))
    np.testing.assert_array_equal(params["w"], seen[1])
    assert summary["steps"] == 40 and [loss for _, loss in summary["held_out"]] == [3.0, 1.0, 2.0, 2.5]


def test_goes_on_from_a_checkpoint_as_if_never_stopped():
    """Stopped after step 23, the lowest loss behind it: the last state and what early stopping gives are equal."""

    def stopper():
        told = {10: 3.0, 20: 1.0, 30: 2.0, 40: 0.5, 50: 2.0, 60: 0.5}  # a tie is no new low
        steps = iter(told)
        return Stopper(lambda params: told[next(steps)], every=10, patience=2)

    whole, summary = train(line_task(), stopper=stopper())
    kept, steps = [], []
    hooks = FitHooks(
        on_step=lambda step, metrics: steps.append(step),
        on_checkpoint=lambda step, state: kept.append(jax.tree.map(jnp.copy, state)),
        should_stop=lambda: len(steps) == 22,  # a step is told when the next one runs
    )
    one = stopper()
    state, first = fit(
        line_task(), CONFIG, start_fit(line_task(), CONFIG, jax.random.key(0), stopper=one), stopper=one, hooks=hooks
    )
    assert first["steps"] == int(kept[0].step) == 23 and len(kept) == 1 and steps == list(range(23))
    state, second = fit(line_task(), CONFIG, kept[0], stopper=one)
    np.testing.assert_array_equal(learned(state)["w"], whole["w"])
    assert second["steps"] == summary["steps"] == 60 and second["held_out"] == summary["held_out"]
    state, again = fit(line_task(), CONFIG, state, stopper=one)  # of a run that has ended nothing is left to do
    np.testing.assert_array_equal(learned(state)["w"], whole["w"])
    assert again["steps"] == 60


def test_a_run_with_early_stopping_can_get_more_steps():
    """A checkpoint's arrays have one shape for any number of steps."""
    stopper = Stopper(lambda params: 1.0, every=10, patience=2)
    states = [
        jax.eval_shape(lambda n=n: start_fit(line_task(), FitConfig(steps=n, batch_size=16), KEY, stopper=stopper))
        for n in (20, 400)
    ]
    assert states[0].held_out_E == states[1].held_out_E
    with pytest.raises(UserError, match="evaluate_every: 2000 evaluations are more than the 1024 kept"):
        start_fit(line_task(), FitConfig(steps=20_000, batch_size=16), KEY, stopper=stopper)


def test_held_out_loss_of_twins_is_their_mean():
    rows = {name: x[:32] for name, x in ROWS.items()}
    params = {"w": np.stack([TRUTH, TRUTH + np.float32([1, 0, 0])])}
    expected = [0.0, float(np.mean(X[:32, 0] ** 2))]  # one is right, the other off by the first column
    found = [held_out_loss(line_task(), rows, 16)(twin(params, i)) for i in range(2)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    both = held_out_loss(line_task(twins=2), rows, 16)(params)
    np.testing.assert_allclose(both, np.mean(expected), rtol=1e-5)


def test_nan_of_the_held_out_loss_ends_the_run():
    with pytest.raises(UserError, match="held_out_loss is NaN at step 10"):
        train(line_task(), stopper=Stopper(lambda params: float("nan"), every=10, patience=2))


def test_nan_names_the_step():
    def batch(step):
        rows = row_batches(ROWS, 16, 0)(step)
        return rows | {"y": rows["y"] * np.nan} if step == 7 else rows

    with pytest.raises(UserError, match="loss is NaN at step 7"):
        train(line_task(batch=batch))


def test_schedule():
    """Two steps of warm-up to the peak, then a line down to a tenth."""
    schedule = make_schedule(OptimizerConfig(learning_rate=1.0, warmup=0.2, decay="linear", final_scale=0.1), 12)
    np.testing.assert_allclose([schedule(0), schedule(1), schedule(2), schedule(7)], [0.5, 0.75, 1.0, 0.55], atol=0.26)
    np.testing.assert_allclose([schedule(2), schedule(7), schedule(12)], [1.0, 0.55, 0.1], atol=1e-6)
