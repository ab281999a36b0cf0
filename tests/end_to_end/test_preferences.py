"""How a policy reads its preference: a learned map from zero, and only the form that its start was trained with."""

import dataclasses

import numpy as np
import pytest

from visa_jax.cli.experiment import open_moc
from visa_jax.cli.judging import judge_moc, load_normalizer, make_moc_set
from visa_jax.cli.runs import open_run
from visa_jax.config import FieldError

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_the_map_of_a_preference_starts_at_zero_and_learns(chain):
    parts = open_moc(chain.moc_config(chain.directory))
    start = np.asarray(parts.start["condition"]["kernel"])
    trained = np.asarray(open_run(chain.directory / "moc", "moc", "moc").params["condition"]["kernel"])
    assert start.shape == trained.shape == (2, parts.start["embedding"].shape[1])
    assert not start.any() and np.abs(trained).max() > 1e-4
    sft = open_run(chain.directory / "moc_sft", "moc_sft", "moc_sft").params
    assert "condition" not in sft
    np.testing.assert_array_equal(parts.start["embedding"], sft["embedding"])


def test_every_preference_is_judged_under_the_same_noise(chain):
    """The start cannot tell preferences apart, so each must get the same text to the same question; MOC can."""
    parts = open_moc(chain.moc_config(chain.directory))
    fixed = make_moc_set(parts, 5, unseen=False, grid=4)
    normalizer = load_normalizer(chain.directory / "moc")
    learned_PEK = judge_moc(parts, normalizer, fixed, parts.start).rows["learned"]
    assert learned_PEK.shape == (4, 5, 2) and np.std(learned_PEK, axis=1).min() > 0
    np.testing.assert_array_equal(learned_PEK, np.broadcast_to(learned_PEK[:1], learned_PEK.shape))
    other_PEK = judge_moc(parts, normalizer, fixed, parts.start, seed=1).rows["learned"]
    assert np.abs(other_PEK - learned_PEK).max() > 0


def test_a_start_with_another_form_of_preference_is_refused(chain):
    config = dataclasses.replace(chain.moc_config(chain.directory), preference_encoding="text")
    with pytest.raises(FieldError, match="preference_encoding: is 'text', but .*moc_sft was trained with 'prefix'"):
        open_moc(config)
