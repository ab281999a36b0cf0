"""Checkpoints come back bit for bit, and what is missing, half-written, damaged or unfitting is told in one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from visa_jax import checkpoint
from visa_jax.config import UserError
from visa_jax.types import TrainState


def state(width: int = 4, seed: int = 1) -> TrainState:
    params = {"layer": {"w": jax.random.normal(jax.random.key(seed), (width, 2)), "b": jnp.zeros(2, jnp.bfloat16)}}
    optimizer = optax.adam(1e-3)
    return TrainState(
        step=jnp.int32(3),
        params=params,
        opt_state=optimizer.init(params),
        method_state={"scale_K": np.array([0.5, 2.0], np.float32), "beta": 0.25, "empty": {}},
        key=jax.random.key(7),
    )


def assert_equal_trees(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if isinstance(a, jax.Array) and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def refusal(function, *arguments, **keywords) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_restored_state_is_equal_bit_for_bit_and_draws_the_same(tmp_path):
    saved = state()
    checkpoint.save(tmp_path, 3, saved)
    restored = checkpoint.restore(tmp_path, state(seed=2))
    assert_equal_trees(restored, saved)
    assert jax.random.uniform(restored.key) == jax.random.uniform(jax.random.key(7))


def test_restore_puts_arrays_on_the_shardings_asked_for(tmp_path):
    mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    checkpoint.save(tmp_path, 0, {"w": jnp.arange(8.0)})
    restored = checkpoint.restore(tmp_path, {"w": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=sharding)})
    assert restored["w"].sharding == sharding
    np.testing.assert_array_equal(restored["w"], np.arange(8.0))
    # and from four devices back to one
    checkpoint.save_params(tmp_path, restored)
    assert len(checkpoint.load_params(tmp_path)["w"].devices()) == 1


def test_newest_is_found_and_old_ones_are_deleted(tmp_path):
    assert checkpoint.latest_step(tmp_path) is None
    for step in (2, 10, 9):
        checkpoint.save(tmp_path, step, {"w": jnp.full(2, float(step))}, keep=2)
    assert checkpoint.latest_step(tmp_path) == 10
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "10.json", "9", "9.json"]
    like = {"w": jnp.zeros(2)}
    assert checkpoint.restore(tmp_path, like)["w"][0] == 10
    assert checkpoint.restore(tmp_path, like, step=9)["w"][0] == 9


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, 1, {"w": jnp.zeros(2)})
    checkpoint.save(tmp_path, 1, {"w": jnp.ones(2)})
    assert checkpoint.restore(tmp_path, {"w": jnp.zeros(2)})["w"].tolist() == [1.0, 1.0]


def test_half_written_checkpoint_is_passed_over_and_named(tmp_path):
    checkpoint.save(tmp_path, 1, {"w": jnp.zeros(2)})
    path = checkpoint.save(tmp_path, 2, {"w": jnp.ones(2)})
    path.with_name("2.json").unlink()  # the last thing that is written
    assert checkpoint.latest_step(tmp_path) == 1
    message = refusal(checkpoint.restore, tmp_path, {"w": jnp.zeros(2)}, step=2)
    assert message.startswith(f"{path}: half-written checkpoint")


def test_damaged_file_is_named(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"w": jnp.arange(100.0)})
    victim = max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    size = victim.stat().st_size
    victim.write_bytes(victim.read_bytes()[:5])
    message = refusal(checkpoint.restore, tmp_path, {"w": jnp.zeros(100)})
    assert message == f"{victim}: damaged checkpoint ({size} bytes written, 5 found)"


def test_missing_checkpoints_are_named(tmp_path):
    assert refusal(checkpoint.restore, tmp_path / "none", {}) == f"{tmp_path / 'none'}: no finished checkpoint in it"
    assert refusal(checkpoint.restore, tmp_path, {}, step=4) == f"{tmp_path / 'checkpoints' / '4'}: no such checkpoint"
    assert refusal(checkpoint.load_params, tmp_path) == f"{tmp_path / 'params'}: no such checkpoint"


def test_other_shape_and_other_structure_are_refused_by_name(tmp_path):
    checkpoint.save(tmp_path, 1, state(width=4))
    message = refusal(checkpoint.restore, tmp_path, state(width=5))
    assert message.endswith("params.layer.w has shape (4, 2) in the checkpoint, (5, 2) now")
    checkpoint.save_params(tmp_path, {"w": jnp.zeros(2)})
    assert "v is in the present config only" in refusal(
        checkpoint.load_params, tmp_path, {"w": jnp.zeros(2), "v": jnp.zeros(1)}
    )
    assert "w is in the checkpoint only" in refusal(checkpoint.load_params, tmp_path, {})


def test_params_without_like_come_back_as_saved(tmp_path):
    params = state().params
    checkpoint.save_params(tmp_path, params, step=12)
    assert_equal_trees(checkpoint.load_params(tmp_path), params)
    final = json.loads((tmp_path / "final.json").read_text())
    assert final == {"step": 12, "params_sha256": checkpoint.params_sha256(params)}


def test_digest_changes_with_any_bit_name_dtype_or_shape():
    params = {"a": jnp.zeros((2, 3)), "b": jnp.ones(1)}
    digest = checkpoint.params_sha256(params)
    assert digest == checkpoint.params_sha256({"b": np.ones(1, np.float32), "a": np.zeros((2, 3), np.float32)})
    others = [
        {"a": jnp.zeros((3, 2)), "b": jnp.ones(1)},
        {"a": jnp.zeros((2, 3)), "c": jnp.ones(1)},
        {"a": jnp.zeros((2, 3), jnp.int32), "b": jnp.ones(1)},
        {"a": jnp.zeros((2, 3)).at[1, 2].set(1e-30), "b": jnp.ones(1)},
    ]
    assert len({digest, *map(checkpoint.params_sha256, others)}) == 5
