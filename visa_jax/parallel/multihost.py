"""Several processes as one run: who they are, what they agree on, and values that all of them need.

Each process sees its own devices and, through ``jax.distributed``, those of the others; a mesh is over all of them.
Every process runs the same program on the same numbers of the host (prompts, keys, steps), so almost nothing has to be
sent. What has to be is here: a stop that one of them was asked for, a choice that process 0 makes, arrays in pieces.

The launchers (``launch/``) say by environment variables what a process is:

    VISA_JAX_COORDINATOR   host:port of process 0; or ``auto``: TPU pods, SLURM and others that JAX knows
    VISA_JAX_PROCESSES     how many there are
    VISA_JAX_PROCESS       which one this is, from 0
    VISA_JAX_CPU_DEVICES   how many devices the CPU pretends to be (also for one process)
"""

import os
import sys
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from visa_jax.config import UserError

COORDINATOR, PROCESSES, PROCESS = "VISA_JAX_COORDINATOR", "VISA_JAX_PROCESSES", "VISA_JAX_PROCESS"
CPU_DEVICES = "VISA_JAX_CPU_DEVICES"
MOMENT = 2.0  # seconds


def initialize() -> None:
    """Meet the other processes that the environment tells of; nothing without them. Before any device is touched.

    Raises:
      UserError: a variable is missing or no number.
    """
    if CPU_DEVICES in os.environ:
        jax.config.update("jax_num_cpu_devices", _number(CPU_DEVICES))
    coordinator = os.environ.get(COORDINATOR)
    if coordinator is None or jax.distributed.is_initialized():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if coordinator == "auto":
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, _number(PROCESSES), _number(PROCESS))


def is_primary() -> bool:
    """Whether this is the process that writes what is written once: metrics, samples, config."""
    return jax.process_index() == 0


def any_process(told: bool) -> bool:
    """Whether any process says so. All must ask."""
    if jax.process_count() == 1:
        return told
    return bool(np.any(multihost_utils.process_allgather(np.asarray(told))))


def from_primary(number: int) -> int:
    """What process 0 has. All must ask: it also makes them wait for it."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def fetch(tree: Any) -> Any:
    """Whole arrays of numpy, on every process; of arrays that lie in pieces on several, all must ask."""

    def one(leaf):
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(one, tree)


def leave(code: int) -> None:
    """End a process of several at once with ``code``; nothing where there is one.

    An orderly end waits for the others, and after a failure of this process alone they wait for it. Process 0 gives
    those that fail alike a moment to say so: without it they are aborted, which looks like a machine that died.
    """
    if jax.process_count() > 1:
        if is_primary():
            time.sleep(MOMENT)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _number(name: str) -> int:
    text = os.environ.get(name)
    if text is None:
        raise UserError(f"{name}: is not set, but {COORDINATOR} is")
    if not text.isdigit():
        raise UserError(f"{name}: {text!r} is not a number")
    return int(text)
