"""Rows of a batch on several processes: each writes, reads and scores those of its own devices, and no others.

One process has all rows, so everything here is the same with one.
"""

import jax
import numpy as np
from jax.sharding import Sharding


def row_numbers(sharding: Sharding, shape: tuple[int, ...]) -> np.ndarray:
    """Which rows (first axis) of an array lie on this process's devices, int [n], in order, each once."""
    pieces = {_ends(index, shape[0]) for index in sharding.addressable_devices_indices_map(shape).values()}
    return np.concatenate([np.arange(*ends) for ends in sorted(pieces)])


def take_rows(x: jax.Array) -> np.ndarray:
    """The rows that ``row_numbers`` numbers."""
    pieces = {_ends(shard.index, x.shape[0]): shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(pieces[ends]) for ends in sorted(pieces)])


def lay_rows(rows: np.ndarray, sharding: Sharding, count: int) -> jax.Array:
    """An array of ``count`` rows, of which each process gives its own (``row_numbers``); undoes ``take_rows``."""
    shape, place = (count, *rows.shape[1:]), np.zeros(count, int)
    place[row_numbers(sharding, shape)] = np.arange(len(rows))
    return jax.make_array_from_callback(shape, sharding, lambda index: rows[place[index[0]]])


def _ends(index: tuple[slice, ...], count: int) -> tuple[int, int]:
    return index[0].indices(count)[:2]
