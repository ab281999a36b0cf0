"""Safetensors one tensor at a time: what comes back, and one line for each way a file can be wrong."""

import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from visa_jax.config import UserError
from visa_jax.models.weights import BLOCK, fingerprint, open_weights, read_json, write_file, write_weights

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(8).astype(ml_dtypes.bfloat16),
    "c": np.float16([[1.5], [-2.0]]),
    "d": np.asarray(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("limit, files", [(10**9, 1), (20, 3), (1, 5)])
def test_what_is_written_is_read_bitwise_and_safetensors_reads_it_too(tmp_path, limit, files):
    write_weights(tmp_path, TENSORS.items(), max_shard_bytes=limit)
    paths = sorted(tmp_path.glob("*.safetensors"))
    assert len(paths) == files and (tmp_path / "model.safetensors.index.json").is_file() == (files > 1)
    theirs = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    with open_weights(tmp_path) as weights:
        assert weights.names == tuple(sorted(TENSORS)) == tuple(sorted(theirs))
        for name, tensor in TENSORS.items():
            assert (weights.shape(name), weights.dtype(name)) == (tensor.shape, tensor.dtype)
            assert weights.read(name).tobytes() == tensor.tobytes() == theirs[name].tobytes()
        np.testing.assert_array_equal(weights.read("b", np.float32), np.arange(8.0))


def test_what_an_earlier_call_left_is_replaced(tmp_path):
    write_weights(tmp_path, TENSORS.items(), max_shard_bytes=1)
    write_weights(tmp_path, [("a", np.zeros(2))])
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert open_weights(tmp_path).names == ("a",)


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    write_weights(tmp_path, [(str(i), np.full(2**18, i, np.float32)) for i in range(16)])
    with open_weights(tmp_path) as weights:
        tracemalloc.start()
        for i in range(16):
            assert weights.read(str(i))[-1] == i
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2.2 * 2**20, peak  # the last one and the next


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def garble(path):
    path.write_bytes(path.read_bytes().replace(b"data_offsets", b"data-offsets"))


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda path: path.unlink(), "model-00002-of-00005.safetensors: no such file, .* wants tensor b from it"),
        (cut, "model-00002-of-00005.safetensors: cut off: tensor b ends at byte"),
        (garble, "model-00002-of-00005.safetensors: damaged"),
        (lambda path: path.write_bytes(b""), "model-00002-of-00005.safetensors: damaged or cut off: 0 bytes"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "model-00002-of-00005.safetensors: damaged"),
        (lambda path: save_file({"x": TENSORS["a"]}, path), "model-00002-of-00005.safetensors: has no tensor b"),
    ],
    ids=["missing", "cut", "garbled", "empty", "longer", "other"],
)
def test_a_bad_shard_is_told_in_one_line_with_its_tensor(tmp_path, harm, message):
    write_weights(tmp_path, TENSORS.items(), max_shard_bytes=1)
    harm(tmp_path / "model-00002-of-00005.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        open_weights(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_missing_tensor_and_another_shape_are_told(tmp_path):
    write_weights(tmp_path, TENSORS.items())
    with open_weights(tmp_path) as weights:
        with pytest.raises(UserError, match="model.safetensors: has no tensor z"):
            weights.read("z")
        with pytest.raises(UserError, match=r"model.safetensors: tensor a has shape \(2, 3\), .* wants \(3, 2\)"):
            weights.read_as("a", (3, 2))
        np.testing.assert_array_equal(weights.read_as("a", (2, 3)), TENSORS["a"])


def test_json_that_is_none_is_named(tmp_path):
    path = tmp_path / "x.json"
    for text, message in (("{", "x.json: not JSON"), ("[1]", "x.json: expected a JSON object, found list")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_json(path)
    path.write_text(json.dumps({"a": 1}))
    assert read_json(path) == {"a": 1}


def test_a_fingerprint_tells_models_apart(tmp_path):
    """One number in a block that is read, a size, a name; the same bytes elsewhere are the same model."""
    tensors = {"w": np.arange(64, dtype=np.float32)}
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        write_file(tmp_path / name / "model.safetensors", tensors)
    same = fingerprint(tmp_path / "a")
    assert same == fingerprint(tmp_path / "b")
    write_file(tmp_path / "b" / "model.safetensors", {"w": tensors["w"] + np.eye(64, dtype=np.float32)[63]})
    (tmp_path / "c" / "model.safetensors").rename(tmp_path / "c" / "model-00001-of-00001.safetensors")
    assert len({same, fingerprint(tmp_path / "b"), fingerprint(tmp_path / "c")}) == 3
    with pytest.raises(UserError, match="holds no safetensors"):
        fingerprint(tmp_path)


def test_a_fingerprint_reads_large_files_in_blocks_to_their_end(tmp_path):
    path = tmp_path / "model.safetensors"
    write_file(path, {"w": np.zeros(8 << 20, np.uint8)})
    before, size = fingerprint(tmp_path), path.stat().st_size
    for at in (size - 1, size - BLOCK, 0, 31 * (size - BLOCK) // 63):
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
        after = fingerprint(tmp_path)
        assert after != before
        before = after
