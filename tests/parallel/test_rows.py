"""Which rows a process holds, and back; prompts written for some of them are those of all."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from visa_jax.data.pool import Pool, make_moc_prompts_fn, make_visa_prompts_fn
from visa_jax.data.source import make_testbed_source
from visa_jax.parallel import MeshConfig, make_mesh
from visa_jax.parallel.rows import lay_rows, row_numbers, take_rows


class OfAnotherProcess:
    """The sharding of 8 rows as a process sees it that holds the first and the third quarter, one of them twice."""

    def addressable_devices_indices_map(self, shape):
        assert shape == (8, 3)
        whole = slice(None)
        return {"a": (slice(4, 6), whole), "b": (slice(None, 2), whole), "c": (slice(4, 6, None), whole)}


def test_a_process_holds_the_rows_of_its_devices_each_once():
    np.testing.assert_array_equal(row_numbers(OfAnotherProcess(), (8, 3)), [0, 1, 4, 5])


def test_rows_come_back_as_they_lay():
    """Rows over two devices, each half twice (along tensor)."""
    rows = NamedSharding(make_mesh(MeshConfig(data=2, tensor=2)), PartitionSpec(("data", "fsdp")))
    x_BK = np.arange(24.0).reshape(8, 3)
    laid = jax.device_put(x_BK, rows)
    np.testing.assert_array_equal(row_numbers(rows, x_BK.shape), np.arange(8))
    np.testing.assert_array_equal(take_rows(laid), x_BK)
    again = lay_rows(take_rows(laid), rows, 8)
    assert again.sharding == rows
    np.testing.assert_array_equal(again, x_BK)
    np.testing.assert_array_equal(again.addressable_shards[2].data, x_BK[4:])


@pytest.mark.parametrize("method", ["visa", "moc"])
def test_prompts_written_for_some_rows_are_those_of_all(method):
    source, sizes = make_testbed_source(), (6, lambda key: np.asarray([3, key]))
    questions = source.questions(5, 0, "train")

    def condition(key, value_PM):
        """Of all rows, so that numbers do not depend on who asks."""
        return np.random.default_rng(key).uniform(0, 1, (len(value_PM), 10 if method == "visa" else 2))

    if method == "visa":
        pool = Pool(questions, [f"{question} yes ." for question in questions], np.zeros((5, 10), np.float32))
        prompts_fn = make_visa_prompts_fn(source, pool, condition, *sizes)
    else:
        prompts_fn = make_moc_prompts_fn(source, questions, condition, *sizes, "text")
    every, own = prompts_fn(1, 0), np.asarray([1, 4])
    jax.tree.map(lambda some, all: np.testing.assert_array_equal(some, all[own]), prompts_fn(1, 0, own), every)
    assert len(np.unique(every.prompt_NL, axis=0)) > 2
