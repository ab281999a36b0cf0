"""A program with the shapes it is called with, compiled for devices that need not be there, and what that tells."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Program(NamedTuple):
    """A jitted function and its arguments: shapes that know their sharding."""

    function: Callable
    arguments: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program; bytes are of one device."""

    text: str  # optimised HLO of one device
    argument_bytes: int
    temp_bytes: int
    output_bytes: int  # that lie in none of the donated arguments
    seconds: float  # of compilation

    @property
    def hbm_bytes(self) -> int:
        """All that is held while the program runs."""
        return self.argument_bytes + self.temp_bytes + self.output_bytes


def compile_program(program: Program) -> Compiled:
    """Lower and compile; nothing is run."""
    began = time.perf_counter()
    compiled = program.function.lower(*program.arguments).compile()
    memory = compiled.memory_analysis()
    return Compiled(
        text=compiled.as_text(),
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        output_bytes=max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0),
        seconds=time.perf_counter() - began,
    )
