"""AdamW with warm-up, a decay and a global-norm clip, from a config."""

import dataclasses

import optax

from visa_jax.config import require


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer numbers; ``warmup`` is a share of the steps."""

    learning_rate: float = 1e-3
    warmup: float = 0.03
    decay: str = "constant"  # constant | linear | cosine
    final_scale: float = 0.1  # the decay ends at learning_rate * final_scale
    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self):
        require(self.learning_rate > 0, "optimizer.learning_rate", "must be > 0")
        require(0 <= self.warmup < 1, "optimizer.warmup", "is a share of the steps, in [0, 1)")
        require(
            self.decay in ("constant", "linear", "cosine"),
            "optimizer.decay",
            f"{self.decay!r} is not constant, linear or cosine",
        )
        require(self.clip_norm > 0, "optimizer.clip_norm", "must be > 0")


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate at each of ``steps`` optimizer steps."""
    warmup = max(int(config.warmup * steps), 1)
    rest = max(steps - warmup, 1)
    peak, end = config.learning_rate, config.learning_rate * config.final_scale
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, end, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=config.final_scale),
    }[config.decay]
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, warmup), after], [warmup])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW under ``make_schedule``."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(make_schedule(config, steps), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay),
    )
