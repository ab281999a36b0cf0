"""Checkpoints by orbax: what a run needs to go on (`checkpoints/<step>`) and what others use (`params`).

Orbax writes into a temporary directory and renames it. Beside each finished directory lies `<name>.json` with the
size of every file in it: a directory without that list was never finished, one that disagrees with it is damaged.
Both are told in one line before orbax opens anything (its own readers report a cut file with pages of text).
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from visa_jax.config import UserError
from visa_jax.types import Params


def save(workdir: str | Path, step: int, tree: Any, *, keep: int = 2) -> Path:
    """Write `tree` to `workdir/checkpoints/<step>` and delete all but the newest `keep` finished ones.

    Args:
      workdir: directory of the run; made when missing.
      step: at least 0; an older checkpoint of the same step is replaced.
      tree: pytree of arrays, typed PRNG keys and Python numbers (no strings).
      keep: at least 1.

    Returns:
      The directory written.
    """
    directory = _checkpoints(workdir)
    path = _write(directory / str(step), tree)
    if jax.process_index() == 0:
        for old in sorted(_finished_steps(directory))[:-keep]:
            _list_path(directory / str(old)).unlink()
            shutil.rmtree(directory / str(old))
    return path


def latest_step(workdir: str | Path) -> int | None:
    """The newest step with a finished checkpoint, None when there is none."""
    return max(_finished_steps(_checkpoints(workdir)), default=None)


def restore(workdir: str | Path, like: Any, step: int | None = None) -> Any:
    """Read the checkpoint of `step` (default: the newest).

    Args:
      workdir: directory of the run.
      like: pytree of arrays or jax.ShapeDtypeStruct of the wanted structure; shardings given there are used.
      step: which one.

    Raises:
      UserError: there is none, it is half-written or damaged, or it has another structure or other shapes.
    """
    step = latest_step(workdir) if step is None else step
    if step is None:
        raise UserError(f"{workdir}: no finished checkpoint in it")
    return _read(_checkpoints(workdir) / str(step), like)


def save_params(directory: str | Path, params: Params, *, step: int = 0) -> Path:
    """Write `directory/params` and `directory/final.json`; returns the former."""
    path = _write(Path(directory) / "params", params)
    write_final(directory, step, params)
    return path


def load_params(directory: str | Path, like: Params | None = None) -> Params:
    """Read what save_params wrote: on the shardings of `like`, else as saved (nested dicts) on the first device.

    Raises:
      UserError: missing, half-written or damaged, or (with `like`) another structure or other shapes.
    """
    return _read(Path(directory) / "params", like)


def write_final(workdir: str | Path, step: int, params: Params) -> Path:
    """Write `workdir/final.json` with the last step and the digest of the params: equal runs have equal files."""
    path = Path(workdir) / "final.json"
    digest = params_sha256(params)
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_json(path, {"step": int(step), "params_sha256": digest})
    return path


def params_sha256(params: Params) -> str:
    """SHA-256 over name, dtype, shape and bytes of every leaf, by name; independent of sharding and device."""
    digest = hashlib.sha256()
    for name, leaf in sorted(_named_leaves(params).items()):
        array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _checkpoints(workdir: str | Path) -> Path:
    return Path(workdir) / "checkpoints"


def _checkpointer() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.StandardCheckpointHandler())


def _write(path: Path, tree: Any) -> Path:
    path = path.absolute()  # orbax refuses relative paths
    path.parent.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        _list_path(path).unlink(missing_ok=True)
    _checkpointer().save(path, args=ocp.args.StandardSave(tree), force=True)
    if jax.process_index() == 0:
        _write_json(_list_path(path), _file_sizes(path))
    return path


def _read(path: Path, like: Any) -> Any:
    path = path.absolute()
    _check_files(path)
    saved = _checkpointer().metadata(path).item_metadata.tree
    if like is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), saved)
    else:
        _check_shapes(path, saved, like)
    return _checkpointer().restore(path, args=ocp.args.StandardRestore(like))


def _check_files(path: Path) -> None:
    """UserError unless everything that was written is still there."""
    if not path.is_dir():
        raise UserError(f"{path}: no such checkpoint")
    if not _list_path(path).is_file():
        raise UserError(f"{path}: half-written checkpoint (the run was stopped while saving); delete it")
    try:
        expected = json.loads(_list_path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        raise UserError(f"{_list_path(path)}: damaged list of files") from None
    found = _file_sizes(path)
    for name, size in expected.items():
        if found.get(name) != size:
            raise UserError(f"{path / name}: damaged checkpoint ({size} bytes written, {found.get(name, 0)} found)")


def _check_shapes(path: Path, saved: Any, like: Any) -> None:
    """UserError naming the first leaf that is missing, superfluous or of another shape."""
    saved_leaves, like_leaves = _named_leaves(saved), _named_leaves(like)
    for name in sorted(saved_leaves.keys() ^ like_leaves.keys()):
        where = "the checkpoint only" if name in saved_leaves else "the present config only"
        raise UserError(f"{path}: does not fit the config: {name} is in {where}")
    for name, leaf in like_leaves.items():
        # A typed key is stored as its words of data, whose shape depends on the kind of key.
        if not _is_key(leaf) and tuple(saved_leaves[name].shape) != np.shape(leaf):
            shapes = f"{tuple(saved_leaves[name].shape)} in the checkpoint, {np.shape(leaf)} now"
            raise UserError(f"{path}: does not fit the config: {name} has shape {shapes}")


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(key_path, simple=True, separator="."): leaf for key_path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _list_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _finished_steps(directory: Path) -> list[int]:
    names = (path.name for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else ()
    return [int(name) for name in names if name.isdigit() and _list_path(directory / name).is_file()]


def _file_sizes(path: Path) -> dict[str, int]:
    return {
        file.relative_to(path).as_posix(): file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()
    }


def _write_json(path: Path, content: dict) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
