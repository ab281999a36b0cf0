"""Train a supervised part: base language model, detector, translator, Fact Analyzer, reward model, SFT policy.

visa-jax supervise --config=configs/detector.py:tiny --workdir=runs/detector

A language model (base, visa_sft, moc_sft) may start from a Hugging Face model, too, and be trained by adapters. A
detector, analyzer or reward model may start from a Hugging Face encoder or decoder, which gets a head for it:

visa-jax supervise --config=configs/detector.py:model=DIR --config.data.path=FILE.jsonl --workdir=runs/detector

With --config.mesh.fsdp=-1 it lies on all devices, of one process or of several (docs/pods.md); with
--config.checkpoint_every=N the same command goes on where an interrupted run stopped.
"""

import dataclasses
import functools
import json
import sys
import time
from pathlib import Path

import jax
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict

from visa_jax.cli.decoders import MADE_BY, Policy, make_policy, open_decoder
from visa_jax.cli.flags import define_config, define_config_change, define_workdir
from visa_jax.cli.main import run
from visa_jax.cli.processes import together
from visa_jax.cli.rewards import is_huggingface, open_detector, open_pair_entailment, open_reward
from visa_jax.cli.runs import claim_base, claim_workdir, open_run, save_run
from visa_jax.cli.sources import DataConfig, make_source
from visa_jax.config import UserError, from_config_dict, require, to_config_dict
from visa_jax.data.source import Source
from visa_jax.evaluation.parts import measure_part, measure_reader
from visa_jax.models.classifiers import Headed, start_classifier
from visa_jax.models.hub import local_directory
from visa_jax.models.lora import attach
from visa_jax.models.placement import decoder_axes
from visa_jax.parallel import PARAM_RULES, MeshConfig, make_mesh, multihost
from visa_jax.training.loop import is_meshed
from visa_jax.training.placement import Layout, require_all_devices
from visa_jax.training.policy import PolicyConfig
from visa_jax.training.reading import READING, draw_start, make_reading_task, reading_rows
from visa_jax.training.roles import (
    LANGUAGE_MODELS,
    ROLES,
    RoleConfig,
    decoder_config,
    held_out_loss,
    make_task,
    role_functions,
    solve_detector,
)
from visa_jax.training.supervised import Stopper, Task, learned, start_fit, twin
from visa_jax.training.workdir import fit_in
from visa_jax.types import Params


@dataclasses.dataclass(frozen=True)
class SuperviseConfig:
    """One supervised run; ``start`` names the run whose parameters or trunk it starts from ("" = from nothing).

    A language model, detector, analyzer or reward model may start from a Hugging Face model: then that says what it is,
    and ``role.trunk`` nothing.
    """

    role: RoleConfig
    data: DataConfig = DataConfig()
    policy: PolicyConfig = PolicyConfig()  # of a language model with a start
    start: str = ""
    patience: int = 0  # evaluations without a new low of the held-out loss before it stops; 0 = all steps
    evaluate_every: int = 50  # steps, with patience
    checkpoint_every: int = 0  # steps; 0 = none: what is interrupted starts over
    mesh: MeshConfig = MeshConfig()  # a language model lies in pieces; what reads is whole on each device, rows are cut

    def __post_init__(self):
        require(self.patience >= 0, "patience", "must be >= 0")
        require(self.evaluate_every >= 1, "evaluate_every", "must be at least 1")
        require(self.checkpoint_every >= 0, "checkpoint_every", "must be >= 0")
        require(not self.role.ridge or self.mesh == MeshConfig(), "mesh", "role.ridge is solved on one device")
        require(self.mesh.way == "jit", "mesh.way", f"{self.mesh.way} is for RL; supervised parts take jit")
        startable = self.start and self.role.role in LANGUAGE_MODELS
        require(startable or not self.policy.lora_rank, "policy.lora_rank", "is for language models that have a start")


def define_flags(values: flags.FlagValues) -> None:
    define_config(values)
    define_workdir(values, "directory of the run; with config.checkpoint_every, one that holds a run is gone on with")
    define_config_change(values)


def complete_config(config: ConfigDict) -> ConfigDict:
    """The page with every field that it leaves at its default, so that any of them can be changed by a flag."""
    return to_config_dict(from_config_dict(SuperviseConfig, config))


def main(values: flags.FlagValues, positional: list[str]) -> int:
    return together("supervise", lambda: supervise_command(values))


def supervise_command(values: flags.FlagValues) -> int:
    config, workdir = from_config_dict(SuperviseConfig, values.config), values.workdir
    require_all_devices(config.mesh, "config.mesh")
    mesh = make_mesh(config.mesh) if is_meshed(config.mesh) else None
    source = make_source(config.data)
    start = open_start(config, source, mesh)
    if config.checkpoint_every:  # after the start is open: one that fails leaves nothing behind
        claim_workdir(workdir, to_config_dict(config), allow_change=values.allow_config_change)
    supervise(config, workdir, source, start, mesh)
    if multihost.is_primary():
        quality = json.loads((Path(workdir) / "quality.json").read_text())
        print(json.dumps({"workdir": workdir, **quality}))
    return 0


Start = Policy | Headed | Params | None


def open_start(config: SuperviseConfig, source: Source, mesh: Mesh | None = None) -> Start:
    """What ``config.start`` names: of a language model its ``Policy``; of a reading role the trunk's parameters, or,
    of a Hugging Face model, that with a new head. A policy lies in pieces on ``mesh``.

    Raises UserError as ``open_decoder`` and ``start_classifier`` do.
    """
    if not config.start:
        return None
    role, lengths = config.role.role, source.lengths
    if role in LANGUAGE_MODELS:
        longest = {"base": lengths.document, "moc_sft": lengths.moc_prompt + lengths.answer}
        window = longest.get(role, lengths.visa_prompt + lengths.text)
        opened = open_decoder(
            config.start, "config.start", LANGUAGE_MODELS, source, config.policy, window=window, mesh=mesh
        )
        return make_policy(opened, config.policy, jax.random.key(config.role.seed), mesh=mesh)
    where = local_directory(config.start, "config.start", MADE_BY)
    if is_huggingface(where):
        if role not in READING:
            raise UserError(f"config.start: {config.start} is a Hugging Face model, a {role} starts from a run of ours")
        require(not config.role.ridge, "config.role.ridge", "is for detectors without a start")
        try:
            return start_classifier(where, READING[role].labels, READING[role].problem)
        except UserError as error:
            raise UserError(f"config.start: {error}") from None
    return open_run(where, "config.start", made_by=MADE_BY).params


def supervise(
    config: SuperviseConfig, workdir: str | Path, source: Source, start: Start = None, mesh: Mesh | None = None
) -> Params:
    """Train one part, measure it on held-out rows, and keep it in ``workdir``.

    Args:
      start: of ``open_start``, on ``mesh``.

    Returns:
      What was trained: parameters or adapters; with twins they have a leading axis of 2.
    """
    workdir = Path(workdir)
    resumable = bool(config.checkpoint_every)
    if config.policy.lora and resumable:
        claim_base(workdir, to_config_dict(config))
    if config.role.ridge:
        started = time.perf_counter()
        params = solve_detector(config.role, source)
        summary = {"steps": 1, "seconds": time.perf_counter() - started, "held_out": []}
    else:
        params, summary = _fit(config, workdir, source, start, mesh)
    tokenizer, huggingface = source.tokenizer, None
    if isinstance(start, Policy):
        huggingface = start.huggingface
    elif isinstance(start, Headed):
        tokenizer, huggingface = start.tokenizer, start.contents
    if config.policy.lora and not resumable:  # what was there before stays usable until now
        claim_base(workdir, to_config_dict(config), fresh=True)
    save_run(workdir, to_config_dict(config), tokenizer, params, summary["steps"], huggingface)
    if multihost.is_primary():
        quality = {"steps": summary["steps"], "seconds": round(summary["seconds"], 1)}
        if summary["held_out"]:
            quality["held_out_loss"] = summary["held_out"]
        if config.role.role not in LANGUAGE_MODELS:
            own = params if mesh is None else jax.tree.map(lambda x: x.addressable_data(0), params)  # whole everywhere
            quality |= _measure(config.role, source, own, workdir if isinstance(start, Headed) else None)
        (workdir / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    multihost.from_primary(0)  # no process leaves before that
    return params


def _fit(
    config: SuperviseConfig, workdir: Path, source: Source, start: Start, mesh: Mesh | None
) -> tuple[Params, dict]:
    key, params = jax.random.key(config.role.seed), None
    if isinstance(start, Policy):
        task, params, lora = make_task(config.role, source, decoder=start.config), start.trained, config.policy.lora
        if lora:
            task = task._replace(frozen=start.frozen, join=lambda low, frozen: attach(frozen, low, lora))
    elif isinstance(start, Headed):
        task, params = make_reading_task(config.role, source, start), draw_start(config.role, start, key)
    else:
        task = make_task(config.role, source, start)
    layout = Layout(mesh)
    if config.role.role in LANGUAGE_MODELS:
        decoder = start.config if isinstance(start, Policy) else decoder_config(source, config.role.trunk)
        layout = Layout(mesh, functools.partial(decoder_axes, config=decoder), PARAM_RULES)
    stopper = _stopper(config, source, task, start, layout)
    state = start_fit(task, config.role.fit, key, params=params, stopper=stopper, layout=layout)
    state, summary = fit_in(
        workdir,
        task,
        config.role.fit,
        state,
        stopper=stopper,
        layout=layout,
        checkpoint_every=config.checkpoint_every,
    )
    return learned(state), summary


def _measure(role: RoleConfig, source: Source, params: Params, published: Path | None) -> dict:
    """Quality of the model; of twins: of the reward model, with the held-out judge under ``judge``.

    ``published``: the run of a published model, which is read as rewards will read it.
    """
    if published is not None:
        open_fn = {"detector": open_detector, "analyzer": open_pair_entailment, "reward_model": open_reward}[role.role]
        read = [open_fn(published, "--workdir", i) for i in range(role.twins or 1)]
        reports = [measure_reader(role.role, read_fn, source, role.objective) for read_fn in read]
    else:
        functions = role_functions(source, role)
        each = [twin(params, i) for i in range(role.twins)] or [params]
        reports = [measure_part(role.role, functions, source, one, role.objective) for one in each]
    return reports[0] | ({"judge": reports[1]} if role.twins else {})


def _stopper(config: SuperviseConfig, source: Source, task: Task, start: Start, layout: Layout) -> Stopper | None:
    if not config.patience:
        return None
    held_out = dataclasses.replace(config.role, rows=4 * config.role.fit.batch_size)
    # other rows in the wording of training: held-out wording would stop a run for being less likely, not for overfit
    seed = config.role.seed + 500
    if isinstance(start, Headed):
        (rows,) = reading_rows(held_out, source, start, [seed], "train")
    else:
        rows = ROLES[config.role.role].rows(source, held_out, seed, "train")
    loss = held_out_loss(task, rows, config.role.fit.batch_size, layout)
    return Stopper(held_out=loss, every=config.evaluate_every, patience=config.patience)


if __name__ == "__main__":
    sys.exit(run(["supervise", *sys.argv[1:]]))
