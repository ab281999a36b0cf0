"""Checkpoints come back bit for bit, and what is missing, half-written, damaged or unfitting is told in one line."""

import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
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


def numbers(size: int, value: float) -> dict:
    return {"w": jnp.full(size, value)}


def spoil(path):
    """Cut the largest file of a checkpoint."""
    victim = max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:5])


def test_newest_that_is_not_whole_is_named_and_the_one_before_is_taken(tmp_path, capsys):
    checkpoints = checkpoint.Checkpoints(tmp_path, keep_last=3)
    for step in (1, 2, 3):
        path = checkpoints.save(step, numbers(100, step))
    checkpoints.wait()
    path.with_name("3.json").unlink()
    spoil(path.with_name("2"))
    (path.parent / "4.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.Checkpoints(tmp_path).restore_newest(numbers(100, 0))["w"][0] == 1
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" checkpoint (")[0].split()[-1] for line in told] == ["half-written", "damaged"]
    assert str(tmp_path / "checkpoints" / "2") in told[1] and all(line.endswith("passed over") for line in told)
    # neither counts any more: the next save keeps the one that was gone on from
    assert sorted(p.name for p in path.parent.iterdir()) == ["1", "1.json", "2.damaged"]


def test_error_only_when_no_whole_checkpoint_is_left(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.restore_newest({}) is None
    path = checkpoints.save(1, numbers(100, 1))
    checkpoints.wait()
    spoil(path)
    assert "damaged checkpoint" in refusal(checkpoint.Checkpoints(tmp_path).restore_newest, numbers(100, 0))
    path.with_name("1.json").unlink()  # killed while saving for the first time: from the start again
    assert checkpoint.Checkpoints(tmp_path).restore_newest(numbers(100, 0)) is None


@pytest.mark.parametrize(
    "error",
    [MemoryError("no room"), OSError(116, "Stale file handle"), ValueError("RESOURCE_EXHAUSTED: memory")],
)
def test_what_the_machine_could_not_read_is_not_damaged(error, tmp_path, monkeypatch):
    """Too little memory says nothing of a checkpoint: it stays, and no older one is taken instead."""
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, numbers(100, step))
    checkpoints.wait()

    def fail(*args, **more):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ocp.Checkpointer, "restore", fail)
        told = refusal(checkpoint.Checkpoints(tmp_path).restore_newest, numbers(100, 0))
    assert told.startswith(f"{tmp_path / 'checkpoints' / '2'}: could not be read (")
    assert checkpoint.Checkpoints(tmp_path).restore_newest(numbers(100, 0))["w"][0] == 2


def test_the_best_are_kept_beside_the_last(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path, keep_last=1, keep_best=2)
    for step, score in enumerate((0.5, 0.9, None, float("nan"), 0.7, 0.1)):
        checkpoints.save(step, numbers(2, step), score)
    checkpoints.wait()
    assert sorted(p.name for p in checkpoints.directory.iterdir() if p.is_dir()) == ["1", "4", "5"]
    assert [checkpoints.score(step) for step in (1, 4, 5)] == [0.9, 0.7, 0.1]  # what a resumed run goes on with


def test_what_is_saved_may_be_used_up_at_once(tmp_path):
    """The next update writes over its state while the checkpoint is still being written."""
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    tree, checkpoints = jax.block_until_ready(numbers(1_000_000, 1)), checkpoint.Checkpoints(tmp_path)
    checkpoints.save(1, tree)
    for _ in range(5):
        tree = step(tree)
    checkpoints.wait()
    assert np.unique(checkpoints.restore_newest(numbers(1_000_000, 0))["w"]).tolist() == [1.0]


def test_full_disk_is_told_in_one_line_and_the_old_checkpoint_stays_whole(tmp_path, caplog):
    """A limit on the size of files stands for a full disk: writing fails inside of orbax, in its thread."""
    rng, like = np.random.default_rng(0), {"w": np.zeros(200_000)}
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(1, {"w": rng.normal(size=200_000)})
    checkpoints.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:

        def save_second():
            checkpoints.save(2, {"w": rng.normal(size=200_000)})
            checkpoints.wait()

        message = refusal(save_second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message.startswith(f"{tmp_path / 'checkpoints' / '2'}: could not be saved (")
    assert not caplog.records  # orbax would log the traceback, too
    again = checkpoint.Checkpoints(tmp_path)
    assert again.newest() == 1
    np.testing.assert_array_equal(again.restore_newest(like)["w"], np.random.default_rng(0).normal(size=200_000))
