"""A program with the shapes it is called with, compiled for devices that need not be there, and what that tells."""

import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from visa_jax.config import UserError


class Program(NamedTuple):
    """A jitted function and its arguments: shapes that know their sharding."""

    function: Callable
    arguments: tuple[Any, ...]
    held_bytes: float  # of one device while it runs: its arguments, and what other programs of the run keep there


def device_bytes(tree: Any) -> int:
    """Bytes on one device of shapes that know their sharding."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program; bytes are of one device."""

    text: str  # optimised HLO of one device
    argument_bytes: int
    temp_bytes: int
    output_bytes: int  # that lie in none of the donated arguments
    hbm_bytes: int  # all that is held while the program runs
    seconds: float  # of compilation


class TooLarge(UserError):
    """A program for which a device has too little memory."""


def compile_program(program: Program) -> Compiled:
    """Lower and compile; nothing is run. Raises TooLarge where the compiler finds no way to fit it in."""
    began = time.perf_counter()
    try:
        compiled = program.function.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        told = re.search(r"Used \S+ of \S+ \w+", str(error))
        raise TooLarge(told[0] if told else str(error).splitlines()[0]) from None
    memory = compiled.memory_analysis()
    outputs = max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0)
    return Compiled(
        text=compiled.as_text(),
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        output_bytes=outputs,
        hbm_bytes=int(program.held_bytes) + memory.temp_size_in_bytes + outputs,
        seconds=time.perf_counter() - began,
    )
