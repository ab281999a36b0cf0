"""Checkpoints by orbax: what a run needs to go on (`checkpoints/<step>`) and what others use (`params`).

Orbax writes into a temporary directory and renames it. Beside each finished directory lies `<name>.json` with the
size of every file in it: a directory without that list was never finished, one that disagrees with it is damaged.
Both are told in one line before orbax opens anything (its own readers report a cut file with pages of text).

Arrays in pieces are written by the processes that hold them and read by those that will; all processes call these
functions, process 0 alone writes lists and deletes.
"""

import hashlib
import importlib.metadata
import json
import math
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from visa_jax.config import UserError
from visa_jax.parallel import multihost
from visa_jax.types import Params

PACKAGES = ("visa-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


class DamagedError(UserError):
    """A checkpoint that was not written to its end, or has changed since."""


class Checkpoints:
    """The checkpoints of one run, written in the background while the run goes on.

    A checkpoint counts when its last file is there: whatever ends the process before, the one before it is whole.

    Args:
      workdir: directory of the run; made when missing.
      keep_last: how many of the newest stay, at least 1.
      keep_best: how many of those with the highest score stay besides.
    """

    def __init__(self, workdir: str | Path, *, keep_last: int = 2, keep_best: int = 0):
        self.directory = _checkpoints(workdir)
        self.keep_last, self.keep_best = keep_last, keep_best
        self._saver = _quiet(ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()))
        self._writing: threading.Thread | None = None
        self._error: tuple[Path, Exception] | None = None

    def newest(self) -> int | None:
        """The step of the newest whole checkpoint, None without any; those that are not whole are put out of the way.

        A newer one that is half-written or damaged is named on stderr.

        Raises:
          DamagedError: there are finished ones, and all of them are damaged; names the newest.
        """
        found = multihost.from_primary(self._clear() if multihost.is_primary() else -1)
        return None if found < 0 else found

    def restore_newest(self, like: Any) -> Any:
        """The newest whole checkpoint, on the shardings of `like`; None without any. See `newest` and `restore`."""
        while (step := self.newest()) is not None:
            try:
                return _read(self.directory / str(step), like)
            except DamagedError as error:
                # several processes read different files, so one alone cannot decide to go back; the newest is named
                if jax.process_count() > 1 or len(_finished_steps(self.directory)) == 1:
                    raise
                _tell(f"{error}; passed over")
                _put_aside(self.directory / str(step))
        return None

    def score(self, step: int) -> float | None:
        """What a finished checkpoint was saved with."""
        return _read_list(self.directory / str(step)).get("score")

    def save(self, step: int, tree: Any, score: float | None = None) -> Path:
        """Begin to write `tree` to `checkpoints/<step>`; it may be used up as soon as this returns.

        Args:
          step: at least 0; an older checkpoint of the same step is replaced.
          tree: pytree of arrays, typed PRNG keys and Python numbers (no strings).
          score: by which the best are kept; higher is better, None or NaN is never among them.

        Raises:
          UserError: this or the checkpoint before could not be written (a full disk); names it.
        """
        self.wait()
        path = (self.directory / str(step)).absolute()  # orbax refuses relative paths
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if multihost.is_primary():
                _list_path(path).unlink(missing_ok=True)
            self._saver.save(path, args=ocp.args.StandardSave(_held(tree)), force=True)
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            raise _not_saved(path, error) from error
        self._writing = threading.Thread(target=self._finish, args=(path, step, score), name=f"checkpoint {step}")
        self._writing.start()
        return path

    def check(self) -> None:
        """UserError if what was being written could not be."""
        if self._error is not None:
            (path, error), self._error = self._error, None
            raise _not_saved(path, error) from error

    def wait(self) -> None:
        """Until everything is on disk; raises as `check` does."""
        self.close()
        self.check()

    def close(self) -> None:
        """Until nothing is being written; raises nothing: for a run that already ends with an error."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def _finish(self, path: Path, step: int, score: float | None) -> None:
        try:
            self._saver.wait_until_finished()
            if multihost.is_primary():
                _write_list(path, step=step, score=score)
                self._prune()
        except Exception as error:  # of a thread: told by the next check
            self._error = (path, error)

    def _prune(self) -> None:
        steps = sorted(_finished_steps(self.directory))
        scores = {step: _read_list(self.directory / str(step)).get("score") for step in steps}
        ranked = sorted((s for s in steps if scores[s] is not None), key=lambda s: scores[s], reverse=True)
        for step in set(steps) - set(steps[-self.keep_last :]) - set(ranked[: self.keep_best]):
            _list_path(self.directory / str(step)).unlink()  # first: what is half deleted is no checkpoint
            shutil.rmtree(self.directory / str(step))

    def _clear(self) -> int:
        """The newest whole step or -1; what is left of interrupted saves is deleted, damaged ones are set aside."""
        if not self.directory.is_dir():
            return -1
        for rest in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(rest)
        newest, damaged = -1, []
        for step in sorted((int(p.name) for p in self.directory.iterdir() if p.name.isdigit()), reverse=True):
            path = self.directory / str(step)
            try:
                _check_files(path)
                newest = step if newest < 0 else newest
            except DamagedError as error:
                if not _list_path(path).is_file():
                    shutil.rmtree(path)
                elif newest < 0:
                    damaged.append((path, error))
                if newest < 0:
                    _tell(f"{error}; passed over")
        if damaged and newest < 0:
            raise damaged[0][1]
        for path, _ in damaged:
            _put_aside(path)
        return newest


def save(workdir: str | Path, step: int, tree: Any, *, keep: int = 2) -> Path:
    """`Checkpoints.save` of one checkpoint, done when it returns; all but the newest `keep` are deleted."""
    checkpoints = Checkpoints(workdir, keep_last=keep)
    path = checkpoints.save(step, tree)
    checkpoints.wait()
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


def load_params(
    directory: str | Path, like: Params | None = None, layout_fn: Callable[[Params], Params] | None = None
) -> Params:
    """Read what save_params wrote: on the shardings of `like`, else as saved (nested dicts) on the first device.

    With `layout_fn` instead, which gives the saved shapes their shardings, on those: each process reads its pieces.

    Raises:
      UserError: missing, half-written or damaged, or (with `like`) another structure or other shapes.
    """
    return _read(Path(directory) / "params", like, layout_fn)


def write_final(workdir: str | Path, step: int, params: Params) -> Path:
    """Write `workdir/final.json` with the last step and the digest of the params: equal runs have equal files."""
    path = Path(workdir) / "final.json"
    digest = params_sha256(params)
    if multihost.is_primary():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_json(path, {"step": int(step), "params_sha256": digest})
    return path


def params_sha256(params: Params) -> str:
    """SHA-256 over name, dtype, shape and bytes of every leaf, by name; independent of sharding and device."""
    digest = hashlib.sha256()
    for name, leaf in sorted(_named_leaves(params).items()):
        array = multihost.fetch(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _checkpoints(workdir: str | Path) -> Path:
    return Path(workdir) / "checkpoints"


def _checkpointer() -> ocp.Checkpointer:
    return _quiet(ocp.Checkpointer(ocp.StandardCheckpointHandler()))


def _quiet(checkpointer):
    """Orbax logs the traceback of an error that it also raises."""
    absl.logging.set_verbosity(absl.logging.FATAL)
    return checkpointer


def _held(tree: Any) -> Any:
    """What is written while the next update runs. On a CPU the "copy on the host" is the array itself, and that update
    donates it: jax 0.10.2 leaves an array alone that is looked at, but says nowhere that it must."""
    if jax.default_backend() != "cpu":
        return tree
    return jax.tree.map(lambda leaf: jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf, tree)


def _write(path: Path, tree: Any) -> Path:
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if multihost.is_primary():
            _list_path(path).unlink(missing_ok=True)
        _checkpointer().save(path, args=ocp.args.StandardSave(tree), force=True)
        if multihost.is_primary():
            _write_list(path)
    except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
        raise _not_saved(path, error) from error
    return path


def _not_saved(path: Path, error: Exception) -> UserError:
    text = " ".join(str(error).split())
    return UserError(f"{path}: could not be saved ({text[:200]}); what was saved before is whole")


def _read(path: Path, like: Any, layout_fn: Callable | None = None) -> Any:
    path = path.absolute()
    _check_files(path)
    saved = _checkpointer().metadata(path).item_metadata.tree
    if like is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), saved)
        like = like if layout_fn is None else layout_fn(like)
    else:
        _check_shapes(path, saved, like)
    try:
        return _checkpointer().restore(path, args=ocp.args.StandardRestore(like))
    except Exception as error:  # each part of orbax has its own
        told = " ".join(str(error).split())[:200]
        if _is_passing(error):
            raise UserError(f"{path}: could not be read ({told})") from error
        raise DamagedError(f"{path}: damaged checkpoint ({told})") from error  # the sizes are right, the content is not


def _is_passing(error: Exception) -> bool:
    """Whether an error says nothing of what is on disk: too little memory, a file system that does not answer."""
    machine = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    return machine or isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _check_files(path: Path) -> None:
    """UserError unless everything that was written is still there."""
    if not path.is_dir():
        raise UserError(f"{path}: no such checkpoint")
    if not _list_path(path).is_file():
        raise DamagedError(f"{path}: half-written checkpoint (the run was stopped while saving)")
    found = _file_sizes(path)
    for name, size in _read_list(path)["files"].items():
        if found.get(name) != size:
            raise DamagedError(f"{path / name}: damaged checkpoint ({size} bytes written, {found.get(name, 0)} found)")


def _read_list(path: Path) -> dict:
    try:
        content = json.loads(_list_path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        raise DamagedError(f"{_list_path(path)}: damaged list of files") from None
    return content if "files" in content else {"files": content}  # lists of older runs


def _write_list(path: Path, **told: Any) -> None:
    """The last thing that is written of a checkpoint."""
    told = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in told.items()}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    _write_json(_list_path(path), {**told, "versions": versions, "files": _file_sizes(path)})


def _put_aside(path: Path) -> None:
    """A damaged checkpoint under a name that is never read: it must not count among those that are kept."""
    aside = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    _list_path(path).unlink()
    path.rename(aside)


def _tell(line: str) -> None:
    print(f"checkpoints: {line}", file=sys.stderr, flush=True)


def _check_shapes(path: Path, saved: Any, like: Any) -> None:
    """UserError naming the first leaf that is missing, superfluous or of another shape."""
    saved_leaves, like_leaves = _named_leaves(saved), _named_leaves(like)
    for name in sorted(saved_leaves.keys() ^ like_leaves.keys()):
        where = "the checkpoint only" if name in saved_leaves else "the present config only"
        raise UserError(f"{path}: does not fit the config: {name} is in {where}")
    for name, leaf in like_leaves.items():
        # A typed key is stored as its words of data, whose shape depends on the kind of key.
        if not is_key(leaf) and tuple(saved_leaves[name].shape) != np.shape(leaf):
            shapes = f"{tuple(saved_leaves[name].shape)} in the checkpoint, {np.shape(leaf)} now"
            raise UserError(f"{path}: does not fit the config: {name} has shape {shapes}")


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(key_path, simple=True, separator="."): leaf for key_path, leaf in leaves}


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key."""
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
