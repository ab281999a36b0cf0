"""Logical axes -> mesh axes: one table for what lies still (parameters) and one for what flows (activations).

A parameter names its axes where it is declared (``models/layers.py:declare``), an activation where ``constrain`` is
called. Both say what an axis *is* (embed, heads, batch); the tables below say where it lies, and nothing else does.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from visa_jax.config import FieldError

Rules = Mapping[str, str | tuple[str, ...] | None]

# what lies still; an axis that is not named here is an error, one at None is whole on every device
PARAM_RULES: Rules = {
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "head_dim": None,
    "norm": None,  # scales of norms: too small to be worth a gather
    "positions": None,
    "condition": None,
    "rank": None,
    # of encoders and small heads
    "embed_out": None,
    "pooled": None,
    "classes": None,
    "types": None,
    "distances": None,
    "neighbours": None,
}
# parameters while they draw completions: whole along fsdp, so that no step of decoding gathers them
ROLLOUT_RULES: Rules = {**PARAM_RULES, "embed": None}
# small models that lie whole on every device
WHOLE_RULES: Rules = dict.fromkeys(PARAM_RULES)
# what flows; "batch" are rows, or prompts with their group beside them
ACTIVATION_RULES: Rules = {
    "batch": ("data", "fsdp"),
    "pieces": None,
    "length": None,
    "embed": None,
    "layers": None,
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
}


class Active(NamedTuple):
    """What ``constrain`` places on while a program is traced."""

    mesh: Mesh
    param_rules: Rules


_ACTIVE: contextvars.ContextVar[Active | None] = contextvars.ContextVar("active", default=None)


def spec(axes: Sequence[str | None], rules: Rules = PARAM_RULES) -> PartitionSpec:
    """The PartitionSpec of an array whose dimensions are ``axes`` (None: whole).

    Raises:
      FieldError: an axis without a rule, or two axes of the array on one mesh axis.
    """
    placed, taken = [], {}
    for axis in axes:
        if axis is not None and axis not in rules:
            raise FieldError("axes", f"there is no rule for the logical axis {axis!r}")
        target = None if axis is None else rules[axis]
        for one in _names(target):
            if one in taken:
                raise FieldError("axes", f"{taken[one]!r} and {axis!r} of one array both lie on mesh axis {one!r}")
            taken[one] = axis
        placed.append(target)
    return PartitionSpec(*placed)


def sharding(
    mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int], name: str, rules: Rules = PARAM_RULES
) -> NamedSharding:
    """Where an array of ``shape`` lies.

    Raises:
      FieldError: naming the array ``name``, a size and the number of devices that it does not divide into.
    """
    placed = spec(axes, rules)
    for axis, target, size in zip(axes, placed, shape, strict=True):
        pieces = _pieces(mesh, target)
        if size % pieces:
            on = " x ".join(_names(target))
            raise FieldError("mesh", f"{name}: {size} along {axis} do not divide into {pieces} devices of {on}")
    return NamedSharding(mesh, placed)


def on_mesh(fn: Callable, mesh: Mesh | None, param_rules: Rules = PARAM_RULES) -> Callable:
    """``fn`` traced with ``constrain`` and ``gather`` placing on ``mesh``; None: as it is.

    ``param_rules`` are those that the parameters it is called with lie by.
    """
    if mesh is None:
        return fn

    def traced(*args):
        with active(mesh, param_rules):
            return fn(*args)

    return traced


@contextlib.contextmanager
def active(mesh: Mesh, param_rules: Rules = PARAM_RULES):
    """Within it ``constrain`` and ``gather`` place."""
    token = _ACTIVE.set(Active(mesh, param_rules))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def constrain(x: jax.Array, *axes: str | None, rules: Rules = ACTIVATION_RULES) -> jax.Array:
    """``x`` laid where the axes of its dimensions say; without an active mesh, ``x`` itself.

    A size that does not divide stays whole along that axis: a reader's few heads on a mesh made for a policy.
    """
    now = _ACTIVE.get()
    if now is None:
        return x
    wanted = zip(spec(axes, rules), x.shape, strict=True)
    placed = [target if size % _pieces(now.mesh, target) == 0 else None for target, size in wanted]
    return jax.lax.with_sharding_constraint(x, NamedSharding(now.mesh, PartitionSpec(*placed)))


def pieces(axis: str) -> int:
    """In how many pieces the active mesh cuts ``axis`` of what flows; 1 without one."""
    now = _ACTIVE.get()
    return 1 if now is None else _pieces(now.mesh, ACTIVATION_RULES[axis])


def constrain_params(tree: Any, axes: Any) -> Any:
    """``constrain`` by the active rules of parameters; ``axes`` has tuples of names where ``tree`` has leaves."""
    now = _ACTIVE.get()
    if now is None:
        return tree
    return jax.tree.map(lambda names, x: constrain(x, *names, rules=now.param_rules), axes, tree, is_leaf=is_axes)


def gather(x: jax.Array, axes: Sequence[str | None], dtype) -> jax.Array:
    """A parameter as a layer uses it: in ``dtype`` and whole along fsdp; its gradient goes back in pieces.

    Said in so many words because the compiler, left alone, may move the activations instead, or add up the gradient of
    all rows on every device. Rounding comes first, so that half of the bytes travel in bfloat16.
    """
    now = _ACTIVE.get()
    if now is None:
        return x.astype(dtype)
    kept, stored = now.param_rules, x.dtype

    @jax.custom_vjp
    def whole(x):
        return constrain(constrain(x, *axes, rules=kept).astype(dtype), *axes, rules={**kept, "embed": None})

    def backward(_, slope):
        return (constrain(slope, *axes, rules=kept).astype(stored),)

    whole.defvjp(lambda x: (whole(x), None), backward)
    return whole(x)


def per_device(fn: Callable, in_axes: Any, out_axes: Sequence[str | None]) -> Callable:
    """``fn`` called by every device with its own pieces: for kernels, which the compiler cannot cut.

    ``in_axes``: one entry per argument, a tree of names like the argument. A mesh axis that does not divide every array
    alike is left whole. Without an active mesh, ``fn`` itself.
    """

    def placed(*arrays):
        now = _ACTIVE.get()
        if now is None:
            return fn(*arrays)
        names = jax.tree.leaves(in_axes, is_leaf=is_axes)
        whole = set()
        for axes, x in zip(names, jax.tree.leaves(arrays), strict=True):
            for target, size in zip(spec(axes, ACTIVATION_RULES), x.shape, strict=True):
                whole.update(_names(target) if size % _pieces(now.mesh, target) else ())

        def fitting(axes):
            kept = (tuple(n for n in _names(target) if n not in whole) for target in spec(axes, ACTIVATION_RULES))
            return PartitionSpec(*(names or None for names in kept))

        in_specs = jax.tree.map(fitting, tuple(in_axes), is_leaf=is_axes)
        # check_vma: kernels do not say over which axes their results vary
        run = jax.shard_map(fn, mesh=now.mesh, in_specs=in_specs, out_specs=fitting(out_axes), check_vma=False)
        return run(*arrays)

    return placed


def is_axes(x: Any) -> bool:
    """Whether ``x`` is a leaf of a tree of axes: a tuple of names."""
    return type(x) is tuple and all(entry is None or isinstance(entry, str) for entry in x)


def _names(target) -> tuple[str, ...]:
    return (target,) if isinstance(target, str) else target or ()


def _pieces(mesh: Mesh, target) -> int:
    return math.prod(mesh.shape[one] for one in _names(target))
