"""Compile a run's programs for a TPU slice that is not there: memory of each device, FLOPs, bytes, least time.

visa-jax plan --config=configs/visa_qwen3_4b.py --topology=v5e:4x4 [--sweep] [--json]

Needs neither weights nor a TPU; for slices of TPU it needs libtpu. `--topology=cpu:8` plans for devices of this host.
Times are bounds from below, from published rates (visa_jax/planning/topology.py). `prefill` and `decode` are the two
parts of one program, the rollout, and show its memory; `decode` is the cost of one token of every row.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from absl import flags

from visa_jax.cli.blueprint import Blueprint, draw, programs
from visa_jax.cli.configs import VisaTrainConfig
from visa_jax.cli.flags import define_config
from visa_jax.cli.main import run
from visa_jax.cli.train import complete_config as complete_config
from visa_jax.cli.train import read_config
from visa_jax.config import FieldError, UserError, require
from visa_jax.models.attention import choose
from visa_jax.parallel import MeshConfig, make_mesh
from visa_jax.parallel.mesh import row_shards
from visa_jax.planning import counts, hlo, roofline
from visa_jax.planning.programs import Compiled, TooLarge, compile_program
from visa_jax.planning.tables import sweep_table, table
from visa_jax.planning.topology import Slice, open_topology
from visa_jax.rollout.logprobs import chunk_size
from visa_jax.training.fishwood import FishWoodConfig

MOST_TENSOR = 8  # devices that a sweep cuts heads into: more talk more than they compute
MOST_PIECES = 64


def define_flags(values: flags.FlagValues) -> None:
    define_config(values)
    flags.DEFINE_string(
        "topology",
        None,
        "slice: v5e:4x4, v5p:2x2x2, v6e:16x16, v4:..., tpu7x:..., cpu:8",
        flag_values=values,
        required=True,
    )
    flags.DEFINE_bool(
        "sweep", False, "try mesh shapes and micro-batches, ranked by the step's estimate", flag_values=values
    )
    flags.DEFINE_bool("json", False, "print JSON instead of a table", flag_values=values)
    flags.DEFINE_string("dump", "", "directory for the compiled HLO text of each program", flag_values=values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    config = read_config(values.config)
    if isinstance(config, FishWoodConfig):
        raise UserError("config.method: fishwood has no programs to plan")
    slice_ = open_topology(values.topology)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if values.sweep:
        found = sweep(config, slice_, say)
        print(json.dumps(found, indent=1) if values.json else sweep_table(found))
        return 0
    told = plan(config, slice_, say, values.dump)
    print(json.dumps(told, indent=1) if values.json else table(told))
    return 0


def _silent(text: str) -> None:
    pass


def plan(
    config: Any,
    slice_: Slice,
    say: Callable[[str], None] = _silent,
    dump: str = "",
    known: dict[str, dict[str, roofline.Cost]] | None = None,
) -> dict[str, Any]:
    """Everything that `--json` prints, for one config on one slice.

    Args:
      dump: where compiled text is kept; "" = nowhere.
      known: costs by program, as an earlier call left them here: what stands in it is not compiled again.
    """
    known = {} if known is None else known
    require(config.loop.mesh.way == "jit", "config.loop.mesh.way", "a plan knows jit alone")
    with _field_path():
        mesh = make_mesh(config.loop.mesh, slice_.devices)
        blueprint = draw(config, slice_.platform)
        made = programs(blueprint, mesh)
    work, costs, reason = work_of(blueprint, slice_.platform, row_shards(mesh)), {}, ""
    try:
        for name, program in made.items():
            if name in known:
                costs |= known[name]
                continue
            compiled = compile_program(program)
            say(f"{name}: compiled in {compiled.seconds:.0f} s")
            if dump:
                Path(dump).mkdir(parents=True, exist_ok=True)
                (Path(dump) / f"{name}.hlo").write_text(compiled.text)
            known[name] = {}
            for part, counted, times in parts_of(name, compiled, work):
                least = _least(part, blueprint, work, mesh)
                known[name][part] = roofline.cost(compiled, counted, slice_.chip, times=times, least=least)
            costs |= known[name]
    except TooLarge as error:  # what was compiled before stays worth knowing
        reason = f"{name}: {error}"
    step, tokens = None, work.rows * work.completion_length
    if not reason:
        step = roofline.step(costs, slice_.chip, mesh.devices.size, tokens, counts.useful_flops(work))
    return {
        "fits": not reason and roofline.fits(costs, slice_.chip),
        "reason": reason,
        "chip": slice_.chip.name,
        "topology": slice_.name,
        "devices": mesh.devices.size,
        "mesh": dict(mesh.shape),
        "micro_batches": config.loop.micro_batches,
        "hbm_capacity": slice_.chip.hbm_bytes,
        "programs": {name: dataclasses.asdict(cost) for name, cost in costs.items()},
        "step": step,
    }


def parts_of(name: str, compiled: Compiled, work: counts.Work) -> list[tuple[str, hlo.Counts, int]]:
    """(part, what it does once, how often in a step): the rollout is a prefill and a loop of steps of decoding."""
    once, rounds = hlo.count(compiled.text, work.completion_length)
    if name != "rollout":
        return [(name, once, 1)]
    step = max(rounds, key=lambda counted: counted.bytes, default=hlo.Counts())
    return [("prefill", once, 1), ("decode", step, work.rollout_batches * (work.completion_length - 1))]


def work_of(blueprint: Blueprint, platform: str, shards: int) -> counts.Work:
    """The sizes of a step, for the counts that need no compiler."""
    config, decoder = blueprint.config, blueprint.decoder
    settings = config.visa if isinstance(config, VisaTrainConfig) else config.moc
    loop, lengths = config.loop, config.plan
    rows = loop.prompts_per_step * settings.num_generations
    piece = rows * lengths.completion_length // (loop.minibatches * loop.micro_batches)
    chunk = config.policy.logp_chunk or chunk_size(piece, decoder.vocab_size, decoder.width, shards)
    adapters = 0
    if config.policy.lora:
        adapters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(blueprint.trained["decoder"]))
    return counts.Work(
        decoder=decoder,
        prompts=loop.prompts_per_step,
        group=settings.num_generations,
        prompt_length=lengths.prompt_length,
        completion_length=lengths.completion_length,
        splash=choose(decoder, platform, lengths.completion_length, lengths.prompt_length).name == "splash",
        chunked=chunk < piece,
        old_pass=loop.epochs * loop.minibatches > 1 or blueprint.experiment.method.signals > 0,
        passes=loop.epochs,
        rollout_batches=loop.rollout_batches,
        adapter_numbers=adapters,
    )


def _least(part: str, blueprint: Blueprint, work: counts.Work, mesh) -> dict[str, float]:
    """What the sizes alone say of one device's share."""
    devices = mesh.devices.size
    if part == "update":
        return {"flops": counts.update_flops(work) / devices}
    if part != "decode":
        return {}
    tensor = mesh.shape["tensor"]
    decoder, width = blueprint.decoder, 4 if blueprint.decoder.dtype == "float32" else 2
    numbers = decoder.layers * counts.layer_numbers(decoder) + decoder.vocab_size * decoder.width
    held = width * numbers
    if blueprint.config.policy.quantize:
        leaves = jax.tree.leaves(blueprint.reference["decoder"])
        held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    return {"bytes": counts.decode_bytes(work, row_shards(mesh), tensor, held)}


def sweep(config: Any, slice_: Slice, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Plans of mesh shapes and numbers of micro-batches that divide, those that fit first, the fastest first.

    On each mesh the pieces of a step grow until they do not fit: still larger ones need more memory. They change the
    update alone, so nothing else is compiled again.
    """
    found = []
    for mesh, tried in itertools.groupby(candidates(config, len(slice_.devices)), key=lambda pair: pair[0]):
        known = {}
        for _, pieces in tried:
            loop = dataclasses.replace(config.loop, mesh=mesh, micro_batches=pieces)
            shown = f"data={mesh.data} fsdp={mesh.fsdp} tensor={mesh.tensor} micro_batches={pieces}"
            known.pop("update", None)
            try:
                told = plan(dataclasses.replace(config, loop=loop), slice_, known=known)
            except FieldError as error:
                say(f"{shown}: {error}")
                continue
            seconds = f", a step at least {told['step']['seconds']:.3g} s" if told["step"] else ""
            say(f"{shown}: {'fits' if told['fits'] else 'does not fit'}{seconds} {told['reason']}".rstrip())
            found.append(told)
            if not told["fits"]:
                break
    return sorted(found, key=lambda told: (not told["fits"], told["step"]["seconds"] if told["step"] else math.inf))


def candidates(config: Any, devices: int) -> list[tuple[MeshConfig, int]]:
    """(mesh, micro-batches) to try: fsdp x tensor over all devices, pieces by powers of two, the smallest first."""
    found = []
    for tensor in (size for size in _powers(MOST_TENSOR) if devices % size == 0):
        shards = devices // tensor
        mesh = MeshConfig(data=1, fsdp=shards, tensor=tensor)
        prompts = config.loop.prompts_per_step // config.loop.minibatches
        found += [
            (mesh, pieces)
            for pieces in reversed(_powers(MOST_PIECES))
            if prompts % pieces == 0 and (prompts // pieces) % shards == 0
        ]
    return found


def _powers(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length())]


@contextlib.contextmanager
def _field_path() -> Iterator[None]:
    """Fields of a loop's section are named in full."""
    try:
        yield
    except FieldError as error:
        known = ("data", "fsdp", "tensor")
        field = f"config.loop.mesh.{error.field}" if error.field in known else error.field
        raise FieldError(field, error.message) from None


if __name__ == "__main__":
    sys.exit(run(["plan", *sys.argv[1:]]))
