"""The programs of a run under pmap: each device runs them on its own rows and meets the others where it must.

``pmap``          parameters are whole on every device, gradients are added up.
``pmap_sharded``  every leaf of parameters and optimizer state is cut into one piece a device (``Piece``, a leading
                  device axis on each leaf); parameters are gathered inside the programs, gradients reduce-scattered.

Numbers are those of one device: prompts are dealt so that each piece of a step (minibatch, micro-batch) is spread over
all devices, draws meet the noise of their place in the whole batch, and ``combine`` sees all rows.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from visa_jax.config import require
from visa_jax.parallel.mesh import make_mesh
from visa_jax.rewards.base import stack_rewards
from visa_jax.training.experiment import Experiment, LoopConfig
from visa_jax.training.placement import path_names, require_rows
from visa_jax.training.programs import Programs, make_rollout, run_optimizer, update_choices
from visa_jax.training.update import Across, make_update
from visa_jax.types import Array, TrainState, record

AXIS = "device"


@record
class Piece:
    """What one device holds of an array: a run of its numbers, the last one filled up with zeros."""

    numbers: Array  # [pieces of n / devices], behind a device axis outside of pmap
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # of the whole array


def make_pmapped(experiment: Experiment, config: LoopConfig, state: TrainState) -> Programs:
    """The programs over all devices of ``config.mesh``, which must be those of one process.

    Raises:
      FieldError: prompts that do not divide into the devices; Muon, whose step is not one of each number by itself,
        with pieces of parameters.
    """
    devices = list(make_mesh(config.mesh).devices.flat)
    count, pieces = len(devices), config.minibatches * config.micro_batches
    require(jax.process_count() == 1, "loop.mesh.way", f"{config.mesh.way} is for one process; take jit for several")
    require_rows(config, count)
    sharded = config.mesh.way == "pmap_sharded"
    flat = not sharded or config.optimizer.name != "muon"
    require(flat, "loop.mesh.way", "pmap_sharded holds runs of numbers, which muon cannot step; take pmap, or jit")

    across = make_across(count, sharded)
    choices = update_choices(experiment, config) | {"across": across}
    update = make_update(
        experiment.method, experiment.policy_fn, run_optimizer(config, across.norm if sharded else None), **choices
    )
    draw, order = make_rollout(experiment, config), deal(config.prompts_per_step, pieces, count)
    group = experiment.group_size
    place_DB = (order[:, :, None] * group + np.arange(group)[None, None, :]).reshape(count, -1)

    def rollout(trained, ref_params, prompts, key, place_B):
        places = (place_B, config.prompts_per_step * group)
        return draw(across.whole(trained), across.whole(ref_params), prompts, key, places)

    mapped = dict(axis_name=AXIS, devices=devices)
    run_rollout = jax.pmap(rollout, in_axes=(0, 0, 0, None, 0), **mapped)
    run_update = jax.pmap(update, donate_argnums=0, **mapped)
    key_words = np.asarray(jax.random.key_data(state.key))

    def put_params(params):
        return _lay([cut(params, count, i) if sharded else params for i in range(count)], devices)

    def put_state(state):
        names = {path_names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)}
        held = []
        for i in range(count):
            moments = _cut_moments(state.opt_state, names, count, i) if sharded else state.opt_state
            params = cut(state.params, count, i) if sharded else state.params
            # a typed key does not travel through pmap, and no program reads the state's
            held.append(dataclasses.replace(state, params=params, opt_state=moments, key=None))
        return _lay(held, devices)

    def take_params(tree):
        return jax.tree.map(_take, tree, is_leaf=_is_piece)

    def take_state(state):
        key = jax.random.wrap_key_data(key_words)
        return dataclasses.replace(jax.tree.map(_take, state, is_leaf=_is_piece), key=key)

    def finish(state, metrics):
        return state, jax.tree.map(lambda x: x[0], metrics)

    return Programs(
        rollout=lambda trained, ref, prompts, key: run_rollout(trained, ref, prompts, key, place_DB),
        score=jax.pmap(stack_rewards(experiment.rewards), **mapped),
        update=lambda state, ref_params, scored: finish(*run_update(state, ref_params, scored)),
        put_state=put_state,
        put_params=put_params,
        put_rewards=lambda params: _lay([params] * count, devices),
        put_prompts=lambda prompts: jax.tree.map(lambda x: np.asarray(x)[order], prompts),
        take_state=take_state,
        take_params=take_params,
        take_rows=lambda rows: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows),
    )


def make_across(count: int, sharded: bool) -> Across:
    """How ``count`` devices meet; ``sharded``: parameters are held in pieces."""

    def rows(tree):
        return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree)

    def own(tree):
        index = jax.lax.axis_index(AXIS)

        def slice_of(x):
            size = x.shape[0] // count
            return jax.lax.dynamic_slice_in_dim(x, index * size, size)

        return jax.tree.map(slice_of, tree)

    def total(tree):
        return jax.lax.psum(tree, AXIS)

    def whole(tree):
        return jax.tree.map(lambda x: _join(jax.lax.all_gather(x.numbers, AXIS), x.shape), tree, is_leaf=_is_piece)

    def scatter(grad):
        numbers = _cut(grad, count).reshape(-1)
        return Piece(numbers=jax.lax.psum_scatter(numbers, AXIS, tiled=True), shape=grad.shape)

    def norm(tree):
        return jnp.sqrt(total(optax.tree.norm(tree, squared=True)))

    if not sharded:
        return Across(rows=rows, own=own, total=total, whole=lambda tree: tree, held=total, norm=optax.tree.norm)
    held = lambda grads: jax.tree.map(scatter, grads)
    return Across(rows=rows, own=own, total=total, whole=whole, held=held, norm=norm)


def deal(prompts: int, pieces: int, devices: int) -> np.ndarray:
    """Which prompts each device has, [devices, prompts / devices]: of every piece of a step an equal share."""
    return np.arange(prompts).reshape(pieces, devices, -1).transpose(1, 0, 2).reshape(devices, -1)


def cut(tree: Any, count: int, index: int) -> Any:
    """The ``Piece`` of each leaf that device ``index`` of ``count`` holds."""
    return jax.tree.map(lambda x: Piece(numbers=_cut(x, count)[index], shape=x.shape), tree)


def _cut(x, count: int):
    """[count, n / count], filled up with zeros."""
    return jnp.pad(x.reshape(-1), (0, -x.size % count)).reshape(count, -1)


def _join(numbers, shape: tuple[int, ...]):
    return numbers.reshape(-1)[: math.prod(shape)].reshape(shape)


def _cut_moments(opt_state: Any, names: dict, count: int, index: int) -> Any:
    """Moments, which have the name and shape of a parameter, cut like it; counters as they are."""

    def one(path, leaf):
        path = path_names(path)
        match = any(path[i:] in names and names[path[i:]].shape == leaf.shape for i in range(len(path)))
        return cut(leaf, count, index) if match else leaf

    return jax.tree_util.tree_map_with_path(one, opt_state)


def _lay(trees: list, devices: list) -> Any:
    """One tree a device -> a tree whose leaves have a leading device axis, each entry on its device."""
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def stack(*leaves):
        arrays = [jax.device_put(leaf, device)[None] for leaf, device in zip(leaves, devices, strict=True)]
        return jax.make_array_from_single_device_arrays((len(devices), *arrays[0].shape[1:]), where, arrays)

    return jax.tree.map(stack, *trees)


def _take(x):
    return _join(np.asarray(x.numbers), x.shape) if _is_piece(x) else x[0]


def _is_piece(x) -> bool:
    return isinstance(x, Piece)
