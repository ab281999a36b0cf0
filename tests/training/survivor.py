"""The program of a process: a small run of ways.py, one reward of texts, kept in a workdir, on all devices.

python -m tests.training.survivor WORKDIR STEPS fsdp=4,tensor=2 [moc or visa]
"""

import os
import sys

import jax

from tests.training import ways
from visa_jax.checkpoint import latest_step, write_final
from visa_jax.cli.main import explain
from visa_jax.parallel import MeshConfig, multihost
from visa_jax.training.loop import start
from visa_jax.training.workdir import train_in

BEGAN = "begins after step"


def survive(workdir: str, steps: int, mesh: MeshConfig, method: str = "moc", *, profile_steps: int = 0, **choices):
    """The state at the end."""
    experiment, params, ref_params, method_state = ways.make_run(method, texts=True)
    config = ways.make_config(mesh, steps=steps, **{"checkpoint_every": 1} | choices)
    state = start(experiment, config, params, method_state, jax.random.key(3))
    state = train_in(workdir, experiment, config, state, ref_params, profile_steps=profile_steps)
    write_final(workdir, int(state.step), state.params)
    return state


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    if cache := os.environ.get("COMPILED"):
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    multihost.initialize()
    if multihost.is_primary():
        print(BEGAN, latest_step(sys.argv[1]) or 0, file=sys.stderr, flush=True)
    sizes = {name: int(size) for name, size in (pair.split("=") for pair in sys.argv[3].split(","))}
    try:
        survive(sys.argv[1], int(sys.argv[2]), MeshConfig(**sizes), *sys.argv[4:])
    except BaseException as error:
        code = explain("survivor", error) if isinstance(error, (ValueError, OSError, KeyboardInterrupt)) else 1
        if code == 1:
            import traceback

            traceback.print_exc()
        multihost.leave(code)
        sys.exit(code)
