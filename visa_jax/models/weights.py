"""Safetensors in and out, one tensor in memory at a time.

The files are read by offset and not mapped: pages of a mapped file count as memory of the process, and a model read
through a map would be in it once as a whole. Everything that can be wrong with a file is found when it is opened.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from visa_jax.config import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BLOCK, BLOCKS = 1 << 16, 64  # of each file that ``fingerprint`` reads: bytes, and how many of them
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class _Place(NamedTuple):
    """Where a tensor's bytes are."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int


class Weights:
    """The tensors of a directory by name; made by ``open_weights``. A context manager that closes its files."""

    def __init__(self, source: Path, places: dict[str, _Place]):
        self.source = source  # model.safetensors or the index: named where a tensor is missing
        self._places = places
        self._files: dict[Path, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors, sorted."""
        return tuple(sorted(self._places))

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. UserError if there is none of that name, here and below."""
        return self._place(name).shape

    def dtype(self, name: str) -> np.dtype:
        """Dtype that a tensor is stored in; bfloat16 is that of ml_dtypes."""
        return self._place(name).dtype

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """UserError with both shapes unless the tensor is there and has this one; reads nothing."""
        place = self._place(name)
        if place.shape != tuple(shape):
            raise UserError(f"{place.path}: tensor {name} has shape {place.shape}, config.json wants {tuple(shape)}")

    def read(self, name: str, dtype: Any = None) -> np.ndarray:
        """One tensor, fresh in memory, as stored or as ``dtype``."""
        place = self._place(name)
        if place.path not in self._files:
            self._files[place.path] = place.path.open("rb", buffering=0)
        file, tensor = self._files[place.path], np.empty(place.shape, place.dtype)
        file.seek(place.start)
        view, done = memoryview(tensor.reshape(-1).view(np.uint8)), 0
        while done < len(view):  # a raw read of more than 2 GiB comes in pieces
            count = file.readinto(view[done:])
            if not count:
                raise UserError(f"{place.path}: damaged: it ends within tensor {name}")
            done += count
        return tensor if dtype is None else tensor.astype(dtype, copy=False)

    def read_as(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        """``read``, and UserError with both shapes where the tensor has another one."""
        self.check(name, shape)
        return self.read(name, dtype)

    def __enter__(self) -> "Weights":
        return self

    def __exit__(self, *error) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise UserError(f"{self.source}: has no tensor {name}")
        return self._places[name]


def open_weights(directory: str | Path) -> Weights:
    """The tensors of ``model.safetensors``, or of the shards that ``model.safetensors.index.json`` lists.

    Reads the headers only. Raises UserError in one line with the file, and the tensor where there is one: a shard that
    is not there, one that is cut off or damaged, one that lacks a tensor that the index promises.
    """
    directory = Path(directory)
    index = directory / INDEX
    if not index.is_file():
        return open_file(directory / SINGLE)
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise UserError(f"{index}: has no weight_map")
    headers = {}
    for name, shard in shards.items():
        if shard not in headers:
            if not (directory / shard).is_file():
                raise UserError(f"{directory / shard}: no such file, {INDEX} wants tensor {name} from it")
            headers[shard] = _read_header(directory / shard)
        if name not in headers[shard]:
            raise UserError(f"{directory / shard}: has no tensor {name}, which {INDEX} wants from it")
    return Weights(index, {name: headers[shard][name] for name, shard in shards.items()})


def open_file(path: str | Path) -> Weights:
    """The tensors of one file. Reads its header only; UserError where it is missing, cut off or damaged."""
    return Weights(Path(path), _read_header(Path(path)))


def fingerprint(directory: str | Path) -> str:
    """SHA-256 over names, sizes and evenly spaced blocks (4 MiB of each file) of a directory's safetensors.

    Tells one model from another, or from itself after more training, in milliseconds; a tensor edited by hand may lie
    between the blocks. UserError where there is no such file.
    """
    paths = sorted(Path(directory).glob("*.safetensors"))
    if not paths:
        raise UserError(f"{directory}: holds no safetensors")
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for at in sorted({i * max(0, size - BLOCK) // (BLOCKS - 1) for i in range(BLOCKS)}):
                file.seek(at)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()


def write_file(path: str | Path, tensors: dict[str, np.ndarray]) -> None:
    """Write one file, whole or not at all."""
    partial = Path(path).with_name(f"{Path(path).name}.partial")
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, partial, {"format": "pt"})
    partial.replace(path)


def write_weights(
    directory: str | Path, tensors: Iterable[tuple[str, np.ndarray]], max_shard_bytes: int = 5_000_000_000
) -> None:
    """Write ``model.safetensors``, or shards of at most ``max_shard_bytes`` (a larger tensor has its own) and an index.

    ``tensors`` is taken one by one and a shard at a time is held. What an earlier call left is replaced at the end.
    """
    directory = Path(directory)
    partial, held, size, total = [], {}, 0, 0  # partial: the shards written so far, and the names in each

    def flush():
        path = directory / f"model-{len(partial) + 1:05d}.partial"
        save_file(held, path, metadata={"format": "pt"})
        partial.append((path, list(held)))
        held.clear()

    for name, tensor in tensors:
        if held and size + tensor.nbytes > max_shard_bytes:
            flush()
            size = 0
        held[name] = np.asarray(tensor, order="C")
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    for old in (directory / INDEX, directory / SINGLE, *directory.glob("model-*-of-*.safetensors")):
        old.unlink(missing_ok=True)
    if len(partial) == 1:
        partial[0][0].replace(directory / SINGLE)
        return
    weight_map = {}
    for number, (path, names) in enumerate(partial, 1):
        shard = f"model-{number:05d}-of-{len(partial):05d}.safetensors"
        path.replace(directory / shard)
        weight_map |= dict.fromkeys(names, shard)
    write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file. UserError naming the file where it is missing or is something else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not JSON (it is no text)") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON (line {error.lineno}: {error.msg})") from None
    if not isinstance(contents, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(contents).__name__}")
    return contents


def write_json(path: str | Path, contents: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    partial = Path(path).with_name(f"{Path(path).name}.partial")
    partial.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def _read_header(path: Path) -> dict[str, _Place]:
    """Where each tensor of a file is: 8 bytes length, a JSON header, the tensors' bytes one after the other."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise UserError(f"{path}: damaged or cut off: {size} bytes are too few for its header")
        try:
            header = json.loads(file.read(length))
            places, end = {}, 8 + length
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                start, stop = (8 + length + offset for offset in entry["data_offsets"])
                if entry["dtype"] not in DTYPES:
                    raise UserError(f"{path}: tensor {name} is of type {entry['dtype']}, which is not supported")
                dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
                if stop - start != dtype.itemsize * math.prod(shape) or start < 8 + length:
                    raise UserError(f"{path}: damaged: tensor {name} has {stop - start} bytes for shape {shape}")
                if stop > size:
                    raise UserError(f"{path}: cut off: tensor {name} ends at byte {stop}, the file at {size}")
                places[name], end = _Place(path, dtype, shape, start), max(end, stop)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: damaged: its header is not that of safetensors") from None
    if end != size:
        raise UserError(f"{path}: damaged: {size} bytes, its tensors end at {end}")
    return places
