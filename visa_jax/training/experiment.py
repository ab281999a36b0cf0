"""What an RL run is made of: its sizes and its parts."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from visa_jax.config import require
from visa_jax.methods.base import Method
from visa_jax.parallel.mesh import MeshConfig
from visa_jax.rewards.base import Reward, TextReward, Texts
from visa_jax.training.optimizer import OptimizerConfig
from visa_jax.training.policy import DTYPES
from visa_jax.training.update import JoinFn, whole
from visa_jax.types import EndId, LanguageModel, Params, PromptBatch, Rollout


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    """What of a run the profiler traces, into workdir/profile."""

    steps: int = 0  # after the two that compile; 0 = none

    def __post_init__(self):
        require(self.steps >= 0, "steps", "must be at least 0")


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Sizes of the RL loop."""

    steps: int = 200
    prompts_per_step: int = 16
    temperature: float = 1.0
    epochs: int = 1  # passes over the rows of a step
    minibatches: int = 1  # gradient steps a pass
    micro_batches: int = 1  # pieces of a minibatch computed one after the other: less memory, the same gradient
    length_buckets: int = 1  # widths of those pieces, by the lengths of their completions: less work, the same gradient
    rollout_batches: int = 1  # pieces of a step's prompts drawn one after the other: less cache, the same completions
    evaluate_every: int = 25  # steps; 0 = never
    checkpoint_every: int = 100  # steps; 0 = only at the end
    keep_last: int = 2  # checkpoints that stay, the newest
    keep_best: int = 0  # and those with the highest best_metric
    best_metric: str = "reward"  # a name of metrics.jsonl; of those that come now and then the newest value counts
    reward_dtype: str = "float32"  # or bfloat16: in which trunks of runs that reward lie on each device
    mesh: MeshConfig = MeshConfig()  # the devices of the run; all 1: one device
    optimizer: OptimizerConfig = OptimizerConfig()

    def __post_init__(self):
        require(self.steps >= 1, "steps", "must be at least 1")
        require(self.prompts_per_step >= 1, "prompts_per_step", "must be at least 1")
        require(self.length_buckets >= 1, "length_buckets", "must be at least 1")
        require(self.keep_last >= 1, "keep_last", "must be at least 1: a run goes on from it")
        require(self.keep_best >= 0, "keep_best", "must be at least 0")
        known = ", ".join(DTYPES)
        require(self.reward_dtype in DTYPES, "reward_dtype", f"{self.reward_dtype!r} is none of {known}")
        require(self.temperature > 0, "temperature", "must be > 0 to sample")
        require(
            self.epochs >= 1 and self.minibatches >= 1 and self.prompts_per_step % self.minibatches == 0,
            "minibatches",
            f"{self.prompts_per_step} prompts a step do not divide into {self.minibatches} minibatches",
        )
        require(
            self.micro_batches >= 1 and self.prompts_per_step % (self.minibatches * self.micro_batches) == 0,
            "micro_batches",
            f"{self.prompts_per_step} prompts do not divide into {self.minibatches} x {self.micro_batches} pieces",
        )
        require(
            self.rollout_batches >= 1 and self.prompts_per_step % self.rollout_batches == 0,
            "rollout_batches",
            f"{self.prompts_per_step} prompts do not divide into {self.rollout_batches} batches",
        )


class Experiment(NamedTuple):
    """Everything a run is made of, assembled by ``cli``."""

    method: Method
    lm: LanguageModel
    policy_fn: Callable  # training/policy.py
    rewards: tuple[Reward | TextReward, ...]
    prompts_fn: Callable[..., PromptBatch]  # (key, step, own=None) -> N prompts, or those that own (int [n]) numbers
    group_size: int
    max_new_tokens: int
    end_id: EndId
    pad_id: int
    evaluate_fn: Callable[[Params], dict[str, float]] | None = None  # judged by the oracle; never a reward
    join_fn: JoinFn = whole  # (what is trained, reference params) -> the policy's params
    axes_fn: Callable[[Params], Params] | None = None  # params -> their logical axes; needed on a mesh
    texts_fn: Callable[[Rollout], Texts] | None = None  # what text rewards read; needed where there are any
