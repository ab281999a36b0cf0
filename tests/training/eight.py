"""The program of a process with eight CPU devices, more than the session has; prints what it finds as one JSON object.

python -m tests.training.eight DIRECTORY
"""

import json
import shutil
import sys
from pathlib import Path

import jax

from tests.training import ways
from tests.training.survivor import survive
from visa_jax.checkpoint import params_sha256
from visa_jax.parallel import MeshConfig
from visa_jax.planning.hlo import COLLECTIVES, arrays, group_size, parse, size
from visa_jax.training.loop import make_programs, start
from visa_jax.training.metrics import read_metrics

FSDP, TENSOR = MeshConfig(fsdp=8), MeshConfig(fsdp=4, tensor=2)
CUT, WHOLE = MeshConfig(way="pmap_sharded", fsdp=8), MeshConfig()


def started(mesh: MeshConfig):
    """(experiment, config, state, reference) of the small MOC run at its start."""
    experiment, params, ref_params, method_state = ways.make_run("moc")
    config = ways.make_config(mesh)
    return experiment, config, start(experiment, config, params, method_state, jax.random.key(3)), ref_params


def largest_share() -> float:
    """Bytes of parameters and optimizer on the fullest device, of all bytes that there are."""
    _, _, state, _ = started(FSDP)
    held, whole = dict.fromkeys(jax.devices(), 0), 0
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
        whole += leaf.nbytes
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values()) / whole


def loop_collectives(mesh: MeshConfig) -> list[tuple[str, int, float]]:
    """(kind, devices that take part, bytes) of every collective within a loop of the compiled rollout.

    Its loops are that over layers, in the prefill, and that over tokens with another over layers in it.
    """
    experiment, config, state, ref_params = started(mesh)
    programs = make_programs(experiment, config, state)
    prompts = programs.put_prompts(experiment.prompts_fn(jax.random.key(0), 0))
    args = (state.params, programs.put_params(ref_params), prompts, jax.random.key(1))
    computations, _ = parse(programs.rollout.lower(*args).compile().as_text())
    todo = [it for body in computations.values() for it in body if it.op == "while"]
    seen, found = set(), []
    while todo:
        it = todo.pop()
        called = {it.called(word) for word in ("body", "condition", "to_apply", "calls")} - seen - {""}
        todo += [within for name in called for within in computations[name]]
        seen |= called
        kind = it.op.removesuffix("-start")
        if kind in COLLECTIVES:
            amount = sum(size(*array[:2]) for array in arrays(it.shape))
            found.append((kind, group_size(it.rest, 8), amount))
    return found


def restored(directory: Path) -> dict[str, tuple[str, dict]]:
    """{mesh: (digest of the parameters as restored, metrics of the next step)}, all from one checkpoint of FSDP."""
    written = params_sha256(survive(str(directory / "first"), 1, FSDP).params)
    found = {"written": (written, {})}
    for name, mesh in (("fsdp", FSDP), ("tensor", TENSOR), ("one device", WHOLE)):
        workdir = str(shutil.copytree(directory / "first", directory / name))
        digest = params_sha256(survive(workdir, 1, mesh).params)
        survive(workdir, 2, mesh)
        found[name] = (digest, {k: v for k, v in read_metrics(workdir)[-1].items() if "second" not in k})
    return found


def differences() -> list[float]:
    """Of the first step, between one device and eight."""
    alone = ways.run("moc", choices={"steps": 1})
    meshes = (FSDP, CUT, TENSOR)
    return [ways.difference(alone, ways.run("moc", mesh, choices={"steps": 1})) for mesh in meshes]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_compilation_cache_dir", str(Path(sys.argv[1]) / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    told = {
        "share": largest_share(),
        "collectives": {"fsdp": loop_collectives(FSDP), "tensor": loop_collectives(TENSOR)},
        "restored": restored(Path(sys.argv[1])),
        "differences": differences(),
    }
    print(json.dumps(told))
