"""AdamW, or Muon with AdamW beside it, with warm-up, a decay and a global-norm clip, from a config."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from visa_jax.config import require
from visa_jax.types import Params


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer numbers; ``warmup`` is a share of the steps."""

    name: str = "adamw"  # adamw | muon: Muon for the matrices of the blocks, AdamW for all else
    learning_rate: float = 1e-3  # of AdamW
    muon_learning_rate: float = 0.02
    warmup: float = 0.03
    decay: str = "constant"  # constant | linear | cosine
    final_scale: float = 0.1  # the decay ends at learning_rate * final_scale
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8  # beside the root of the second moment; large: steps go with gradients, not with their signs
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self):
        require(self.name in ("adamw", "muon"), "name", f"{self.name!r} is not adamw or muon")
        require(self.learning_rate > 0, "learning_rate", "must be > 0")
        require(self.muon_learning_rate > 0, "muon_learning_rate", "must be > 0")
        require(0 <= self.warmup < 1, "warmup", "is a share of the steps, in [0, 1)")
        require(
            self.decay in ("constant", "linear", "cosine"), "decay", f"{self.decay!r} is not constant, linear or cosine"
        )
        require(self.eps > 0, "eps", "must be > 0")
        require(self.clip_norm > 0, "clip_norm", "must be > 0")


def make_schedule(config: OptimizerConfig, steps: int, peak: float | None = None) -> optax.Schedule:
    """Learning rate at each of ``steps`` optimizer steps; ``peak`` defaults to the config's learning rate."""
    peak = config.learning_rate if peak is None else peak
    warmup = max(int(config.warmup * steps), 1)
    rest = max(steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, peak * config.final_scale, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=config.final_scale),
    }[config.decay]
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, warmup), after], [warmup])


def make_optimizer(
    config: OptimizerConfig, steps: int, norm_fn: Callable[[Params], jax.Array] | None = None
) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW or Muon (Jordan et al. 2024) under ``make_schedule``.

    ``norm_fn`` gives the norm of all gradients where a device holds a piece of each (``training/pmapped.py``).
    """
    adam = {"b2": config.b2, "weight_decay": config.weight_decay}
    if config.name == "adamw":
        step = optax.adamw(make_schedule(config, steps), b1=config.b1, eps=config.eps, **adam)
    else:
        step = optax.contrib.muon(
            make_schedule(config, steps, config.muon_learning_rate),
            eps=config.eps,
            adam_b1=config.b1,
            adam_b2=config.b2,
            adam_weight_decay=config.weight_decay,
            adam_learning_rate=make_schedule(config, steps),
            muon_weight_dimension_numbers=muon_dimensions,
        )
    clip = optax.clip_by_global_norm(config.clip_norm)
    if norm_fn is not None:
        clip = optax.stateless(lambda grads, _: _clipped(grads, norm_fn(grads), config.clip_norm))
    return optax.chain(clip, step)


def _clipped(grads: Params, norm: jax.Array, limit: float) -> Params:
    return jax.tree.map(lambda g: jnp.where(norm < limit, g, g / norm.astype(g.dtype) * limit), grads)


def muon_dimensions(params: Params) -> Params:
    """Which axes of a block's kernel are inputs and outputs; None = AdamW (embeddings, norms, biases, heads).

    Kernels of the blocks have a leading layer axis; that of attention's output has two input axes (heads, width).
    """

    def dimensions(path, leaf):
        names = [str(getattr(entry, "key", entry)) for entry in path]
        if "layers" not in names or names[-1] != "kernel":
            return None
        inputs = 2 if names[-2] == "out" else 1
        return optax.contrib.MuonDimensionNumbers(
            reduction_axis=tuple(range(1, 1 + inputs)), output_axis=tuple(range(1 + inputs, leaf.ndim))
        )

    return jax.tree_util.tree_map_with_path(dimensions, params)
