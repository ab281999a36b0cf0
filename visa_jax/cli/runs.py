"""Runs on disk: what a finished run leaves in its workdir, and how the next command opens it.

workdir/config.json   the whole config, which tells its kind by role.role (supervise) or method (train)
workdir/tokenizer/    a transformers fast tokenizer
workdir/params/       orbax; workdir/final.json says the last step and the digest of the parameters
workdir/huggingface/  of a run that stands on a Hugging Face model: its config.json (with the head that was trained,
                      where one was) and generation_config.json
workdir/base.json     of a run that trains adapters: where their base is, and a digest of it
"""

import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from visa_jax.checkpoint import load_params, save_params
from visa_jax.config import UserError, config_differences, load_config, save_config
from visa_jax.data.tokenizer import load_tokenizer, save_tokenizer
from visa_jax.models import Pretrained, make_decoder
from visa_jax.models.hf import load_tokenizer as load_any_tokenizer
from visa_jax.models.hf import read_decoder_config, read_family, special_ids
from visa_jax.models.hub import local_directory
from visa_jax.models.weights import fingerprint, read_json, write_json
from visa_jax.parallel import multihost
from visa_jax.training.supervised import twin
from visa_jax.types import Params

PRETRAINED = "pretrained"  # kind of a run that was a Hugging Face directory
HUGGINGFACE = "huggingface"
BASE = "base.json"


class Run(NamedTuple):
    """A finished run."""

    workdir: Path
    config: Any  # ConfigDict, as it was written
    params: Params
    tokenizer: Any


def save_run(
    workdir: str | Path, config: Any, tokenizer: Any, params: Params, step: int, huggingface: Path | dict | None = None
) -> None:
    """Write everything that ``open_run`` needs; the parameters last, so that a run without them is unfinished.

    ``huggingface``: where no role's trunk says what model it is, a directory whose config.json does, or its contents.
    """
    workdir = Path(workdir)
    if multihost.is_primary():
        save_config(workdir, config)
        if isinstance(huggingface, Path):
            _keep_family(huggingface, workdir)
        elif huggingface is not None:
            (workdir / HUGGINGFACE).mkdir(parents=True, exist_ok=True)
            write_json(workdir / HUGGINGFACE / "config.json", huggingface)
        save_tokenizer(tokenizer, workdir / "tokenizer")
    save_params(workdir, params, step=step)


def claim_workdir(workdir: str, config: ConfigDict, *, allow_change: bool = False) -> None:
    """Keep `config` in `workdir`, or, where a run lies there, make sure that it was made with the same config.

    ``allow_change``: another one is printed and takes its place (a mesh of other machines, more steps).
    """
    found = multihost.any_process((Path(workdir) / "config.json").is_file())  # asked before process 0 writes it
    if found:
        differences = config_differences(load_config(workdir), config)
        if differences and not allow_change:
            raise UserError(
                f"{workdir}: holds a run with another config ({'; '.join(differences)}); use a new workdir, "
                "or --allow_config_change"
            )
        if not differences:
            return
        for line in differences if multihost.is_primary() else ():
            print(f"config changed: {line}", file=sys.stderr)
        multihost.any_process(True)  # all have read it
    if multihost.is_primary():
        save_config(workdir, config)


def claim_base(workdir: str | Path, config: ConfigDict, *, fresh: bool = False) -> None:
    """Keep which base the adapters of ``workdir`` are trained on, or make sure that they go on with the same.

    Adapters on another model are no error to a computer: shapes fit, and what comes out is something else. ``fresh``:
    whatever is there makes way.

    Raises:
      UserError: the directory that the run started from holds another model by now, or none.
    """
    field, start = start_of(config)
    path = Path(workdir) / BASE
    if multihost.any_process(not fresh and path.is_file()):  # asked before process 0 writes it
        if read_json(path)["start"] == start:  # another one was changed on purpose, with --allow_config_change
            check_base(workdir, config, f"config.{field}")
            return
        multihost.any_process(True)  # all have read it
    if multihost.is_primary():
        digest = _model_digest(local_directory(start, f"config.{field}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "final.json").unlink(missing_ok=True)  # of adapters that stood on another
        write_json(path, {"start": start, "sha256": digest})


def check_base(workdir: str | Path, config: Any, field: str = "") -> None:
    """UserError unless the base that a run's adapters were trained on is there and the same; nothing without adapters.

    ``field`` names it in messages; "" = as config.json of the run does.
    """
    path = Path(workdir) / BASE
    if not path.is_file():
        return
    name, start = start_of(config)
    field = field or f"{workdir}/config.json: {name}"
    if _model_digest(local_directory(start, field)) != read_json(path)["sha256"]:
        raise UserError(
            f"{field}: {start} holds another model than the one that the adapters of {workdir} are of ({BASE} there)"
        )


def _model_digest(directory: Path) -> str:
    """What tells the model of a run (of one with adapters: those) or of a Hugging Face directory from any other."""
    final = directory / "final.json"
    return read_json(final)["params_sha256"] if final.is_file() else fingerprint(directory)


def start_of(config: Any) -> tuple[str, str]:
    """(field, directory) of what a run started from."""
    return ("start", config.start) if "role" in config else ("runs.start", config.runs.start)


def run_kind(config: Any) -> str:
    """What a config is of: a role of ``supervise`` (detector, base ...) or a method of ``train`` (visa, moc)."""
    role = config.get("role")
    return role.get("role", "unknown") if isinstance(role, ConfigDict) else str(config.get("method", "unknown"))


def open_run(
    workdir: str | Path,
    field: str,
    kind: str | tuple[str, ...] | None = None,
    made_by: str = "visa-jax supervise",
    layout_fn: Callable[[Run, Params], Params] | None = None,
) -> Run:
    """Open a finished run.

    Args:
      field: the config field or flag that names it, for messages.
      kind: what must stand under ``role`` (supervise) or ``method`` (train) in its config; of several, one of them.
      layout_fn: (the run without its parameters, their shapes) -> shapes with shardings; None = the first device.

    Raises:
      UserError: missing, unfinished or of another kind; one line with the field, the path and what to do.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{field}: {workdir} does not exist; make it with {made_by}")
    config = load_config(workdir)
    found, kinds = run_kind(config), (kind,) if isinstance(kind, str) else kind
    if kinds is not None and found not in kinds:
        raise UserError(f"{field}: {workdir} holds a run of {found!r}, expected {' or '.join(map(repr, kinds))}")
    if not (workdir / "final.json").is_file():
        raise UserError(f"{field}: {workdir} holds an unfinished run; go on with it first ({made_by})")
    run = Run(workdir, config, None, load_tokenizer(workdir / "tokenizer"))
    return run._replace(params=load_params(workdir, layout_fn=layout_fn and functools.partial(layout_fn, run)))


def save_pretrained_run(workdir: str | Path, source: Path, params: Params, tokenizer: Any, dtype: str) -> None:
    """Keep a model read from the Hugging Face directory ``source`` as a run; ``dtype`` is that of its files."""
    workdir = Path(workdir)
    _keep_family(source, workdir)
    save_config(workdir, ConfigDict({"role": {"role": PRETRAINED}, "dtype": dtype}))
    tokenizer.save_pretrained(str(workdir / "tokenizer"))
    save_params(workdir, params)


def open_pretrained_run(
    workdir: str | Path, field: str, check_fn: Callable | None = None, layout_fn: Callable | None = None
) -> tuple[Pretrained, Any, str]:
    """``(model, tokenizer, dtype of the source's files)`` of a run that ``save_pretrained_run`` wrote.

    ``check_fn`` is that of ``load_pretrained``; ``layout_fn``: (shapes, DecoderConfig) -> shapes with shardings. Raises
    UserError as ``open_run`` does.
    """
    workdir = Path(workdir)
    if not (workdir / "final.json").is_file():
        raise UserError(f"{field}: {workdir} holds an unfinished run; make it again with visa-jax convert")
    source = workdir / HUGGINGFACE
    config = read_decoder_config(source)
    tokenizer = load_any_tokenizer(workdir / "tokenizer", config.vocab_size)
    if check_fn is not None:
        check_fn(config, tokenizer)
    lm, _ = make_decoder(config)
    end_ids, pad_id = special_ids(source)
    params = load_params(workdir, layout_fn=layout_fn and functools.partial(layout_fn, config=config))
    model = Pretrained(lm, params, config, end_ids, pad_id, read_family(source))
    return model, tokenizer, load_config(workdir).dtype


def _keep_family(source: Path, workdir: Path) -> None:
    (workdir / HUGGINGFACE).mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, workdir / HUGGINGFACE / name)


def reward_and_judge(run: Run) -> tuple[Params, Params]:
    """The two models of a run with twins; of a run without them, the one model twice."""
    twins = run.config.role.twins
    return (twin(run.params, 0), twin(run.params, 1)) if twins else (run.params, run.params)
