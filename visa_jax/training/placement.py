"""Where the arrays of a run lie on its mesh: state, reference, rewards and batches.

Everything is derived from the axes that parameters declare (``models/placement.py``) and the table in
``parallel/axes.py``. Sizes that do not divide are refused here, before anything is compiled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from visa_jax.checkpoint import is_key
from visa_jax.config import require
from visa_jax.models.decoder import DecoderConfig
from visa_jax.models.placement import decoder_axes
from visa_jax.parallel.axes import ACTIVATION_RULES, PARAM_RULES, WHOLE_RULES, Rules, is_axes, on_mesh, sharding, spec
from visa_jax.parallel.mesh import MeshConfig, row_shards
from visa_jax.parallel.rows import lay_rows
from visa_jax.training.experiment import LoopConfig
from visa_jax.types import Params


def policy_axes(params: Params, config: DecoderConfig) -> Params:
    """Axes of ``{"decoder": ..., "critic": ...}``; what is not the decoder is small and whole everywhere."""
    whole = {name: whole_axes(tree) for name, tree in params.items()}
    return whole | {"decoder": decoder_axes(params["decoder"], config)}


def whole_axes(tree: Any) -> Any:
    """Axes of a tree that is whole on every device."""
    return jax.tree.map(lambda x: (None,) * np.ndim(x), tree)


def state_axes(state: Any, params_axes: Params) -> Any:
    """Axes of a whole state: parameters, and what the optimizer keeps of each, lie alike; all else is whole.

    They are found by their names: the path of a moment ends with that of its parameter (optax keeps both trees).
    """
    named = {path_names(path): axes for path, axes in jax.tree_util.tree_leaves_with_path(params_axes, is_leaf=is_axes)}

    def axes_of(path, leaf):
        path = path_names(path)
        found = next((named[path[i:]] for i in range(len(path)) if path[i:] in named), None)
        return found if found is not None and len(found) == np.ndim(leaf) else (None,) * np.ndim(leaf)

    return jax.tree_util.tree_map_with_path(axes_of, state)


def shardings(tree: Any, axes: Any, mesh: Mesh, rules: Rules = PARAM_RULES) -> Any:
    """A tree of shardings. UserError naming the first array with a size that does not divide, and both numbers."""

    def one(path, names, leaf):
        return sharding(mesh, names, np.shape(leaf), "/".join(path_names(path)), rules)

    return jax.tree_util.tree_map_with_path(one, axes, tree, is_leaf=is_axes)


def place(tree: Any, where: Any) -> Any:
    """``tree`` with each leaf laid by the sharding at its place in ``where``; what lies there already stays as it is.

    On several processes each has the whole array, or its part of it, and lays what its devices hold. A shape becomes
    one that knows its sharding: enough to compile for.
    """

    def one(leaf, to):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and leaf.sharding == to:
            return leaf  # of a checkpoint
        if is_key(leaf):
            data = one(jax.random.key_data(leaf), NamedSharding(to.mesh, PartitionSpec()))
            return jax.random.wrap_key_data(data)
        if jax.process_count() == 1 or not getattr(leaf, "is_fully_addressable", True):
            return jax.device_put(leaf, to)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, to, lambda index: whole[index])

    return jax.tree.map(one, tree, where)


def lay_decoder(params: Params, config: DecoderConfig, mesh: Mesh | None) -> Params:
    """A decoder's parameters (arrays or shapes, whole or adapters alone) in pieces on ``mesh``; None: as they are.

    Raises:
      FieldError: see ``shardings``.
    """
    return params if mesh is None else place(params, shardings(params, decoder_axes(params, config), mesh))


def place_whole(tree: Any, mesh: Mesh) -> Any:
    """``tree`` with every leaf whole on every device."""
    return place(tree, jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree))


def place_rows(tree: Any, mesh: Mesh, count: int) -> Any:
    """Arrays of this process's rows (or prompts) out of ``count``, cut along them; shapes, of any number, likewise."""
    cut = NamedSharding(mesh, spec(("batch",), ACTIVATION_RULES))

    def one(leaf):
        return place(leaf, cut) if isinstance(leaf, jax.ShapeDtypeStruct) else lay_rows(np.asarray(leaf), cut, count)

    return jax.tree.map(one, tree)


def require_all_devices(mesh: MeshConfig, field: str) -> None:
    """FieldError where ``field`` is for one device and there are several processes."""
    alone = mesh == MeshConfig() and jax.process_count() > 1
    require(not alone, field, f"is one device, but there are {jax.process_count()} processes; fsdp = -1 takes all")


def require_rows(config: LoopConfig, shards: int) -> None:
    """FieldError unless the prompts of each piece of a step, in rollout and update, divide into ``shards`` devices."""
    prompts = config.prompts_per_step
    update = (config.minibatches * config.micro_batches, "minibatches x micro_batches")
    for pieces, name in (update, (config.rollout_batches, "rollout_batches")):
        told = f"{prompts} prompts in {pieces} pieces ({name})" if pieces > 1 else f"{prompts} prompts"
        require(
            prompts % pieces == 0 and (prompts // pieces) % shards == 0,
            "loop.prompts_per_step",
            f"{told} do not divide into {shards} devices of data x fsdp",
        )


class Layout(NamedTuple):
    """Where a supervised run lies: its parameters by their axes, its rows cut; without a mesh, on the first device."""

    mesh: Mesh | None = None
    axes_fn: Callable[[Params], Params] = whole_axes  # what is trained -> its logical axes
    rules: Rules = WHOLE_RULES  # by which parameters lie

    def program(self, fn: Callable, out: Any = None, **options: Any) -> Callable:
        """``fn`` jitted; ``out``: shardings of its results."""
        return jax.jit(on_mesh(fn, self.mesh, self.rules), out_shardings=out, **options)

    def held(self, state: Any) -> Any:
        """The sharding of each array of a state that has ``params``; arrays or shapes. FieldError as ``shardings``."""
        if self.mesh is None:
            return None
        return shardings(state, state_axes(state, self.axes_fn(state.params)), self.mesh, self.rules)

    def everywhere(self) -> NamedSharding | None:
        """The sharding of what every device has."""
        return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

    def put_whole(self, tree: Any) -> Any:
        """``tree`` whole on every device."""
        return tree if self.mesh is None else place_whole(tree, self.mesh)

    def put_rows(self, tree: Any, axis: int = 0) -> Any:
        """Arrays of rows, which every process has, cut along ``axis``."""
        if self.mesh is None:
            return tree
        cut = NamedSharding(self.mesh, spec((*(None,) * axis, "batch"), ACTIVATION_RULES))
        return place(tree, jax.tree.map(lambda _: cut, tree))

    def require_rows(self, count: int, field: str) -> None:
        """FieldError unless so many rows, of ``field``, divide into the devices that cut them."""
        pieces = 1 if self.mesh is None else row_shards(self.mesh)
        require(count % pieces == 0, field, f"{count} rows do not divide into {pieces} devices of data x fsdp")


ONE_DEVICE = Layout()


def path_names(path) -> tuple[str, ...]:
    """The keys of a path in a pytree, whatever kinds of containers they are of."""
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
