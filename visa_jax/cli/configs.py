"""What ``visa-jax train --config=...`` accepts: the typed configs of VISA and MOC runs."""

import dataclasses

from visa_jax.cli.rewards import CONSISTENCIES, ReadingConfig
from visa_jax.cli.sources import DataConfig
from visa_jax.config import require
from visa_jax.data.template import PREFERENCE_ENCODINGS
from visa_jax.methods import moc as moc_method
from visa_jax.methods import visa as visa_method
from visa_jax.planning.sizes import PlanConfig
from visa_jax.rewards.value_match import VALUE_REWARDS
from visa_jax.training.experiment import LoopConfig, ProfileConfig
from visa_jax.training.policy import PolicyConfig


@dataclasses.dataclass(frozen=True)
class VisaRuns:
    """The supervised runs that VISA stands on, by directory."""

    base: str  # the frozen language model that answers: a base run or a Hugging Face model
    start: str  # the rewriter's start and KL reference: a visa_sft run or a Hugging Face model
    detector: str  # a detector run, or a Hugging Face classifier of the ten values
    analyzer: str  # an analyzer run, or a Hugging Face NLI classifier (with consistency = embedding: any encoder)
    translator: str = ""  # only wishes in plain words need it
    judge_detector: str = ""  # what judges in place of the detector's twin; "" = the twin
    judge_analyzer: str = ""
    embedder: str = ""  # a Hugging Face encoder: only the reward "similarity" needs it


@dataclasses.dataclass(frozen=True)
class VisaTrainConfig:
    """A VISA run."""

    runs: VisaRuns
    method: str = "visa"
    seed: int = 0
    data: DataConfig = DataConfig()
    policy: PolicyConfig = PolicyConfig()
    visa: visa_method.VisaConfig = visa_method.VisaConfig()
    loop: LoopConfig = LoopConfig()
    profile: ProfileConfig = ProfileConfig()
    value_reward: str = "cos+l2"  # cos [paper] | l2 | cos+l2 [ours, sees strength]
    consistency: str = "nli"  # nli [read] | embedding: what a Hugging Face analyzer is; a run is what it is
    pool: int = 2048  # source answers to draw from
    pool_base_share: float = 0.5  # of them answered by the frozen base model; the others are the source's own texts
    evaluation_rows: int = 64  # judged now and then while training
    plan: PlanConfig = PlanConfig()  # for visa-jax plan

    def __post_init__(self):
        require(self.method == "visa", "method", f"{self.method!r} is not visa")
        require(self.value_reward in VALUE_REWARDS, "value_reward", f"is not one of {', '.join(VALUE_REWARDS)}")
        require(self.consistency in CONSISTENCIES, "consistency", f"is not one of {', '.join(CONSISTENCIES)}")
        require(self.pool >= self.loop.prompts_per_step, "pool", "holds fewer rows than a step draws")


@dataclasses.dataclass(frozen=True)
class MocRuns:
    """The supervised runs that MOC stands on, by directory."""

    start: str  # the policy's start and KL reference: a moc_sft run or a Hugging Face model
    rewards: tuple[str, ...]  # a reward_model run or Hugging Face classifier per objective, as moc.reward_names
    reading: ReadingConfig = ReadingConfig()  # of Hugging Face reward models
    judge_rewards: tuple[str, ...] = ()  # what judges in place of their twins, "" = the twin; () = all twins
    judge_reading: ReadingConfig = ReadingConfig()

    def __post_init__(self):
        judges = len(self.judge_rewards)
        require(judges in (0, len(self.rewards)), "judge_rewards", f"{judges} judges for {len(self.rewards)} rewards")
        self.reading.check("reading", self.rewards)
        self.judge_reading.check("judge_reading", self.rewards)


@dataclasses.dataclass(frozen=True)
class MocTrainConfig:
    """A MOC run, or one of its PPO baselines."""

    runs: MocRuns
    method: str = "moc"
    seed: int = 0
    data: DataConfig = DataConfig()
    policy: PolicyConfig = PolicyConfig()
    moc: moc_method.MocConfig = moc_method.MocConfig()
    loop: LoopConfig = LoopConfig()
    profile: ProfileConfig = ProfileConfig()
    preference_encoding: str = "text"  # text | symbol | prefix, as its start was trained
    questions: int = 512  # training questions to draw from
    normalizer_samples: int = 256  # completions of the start policy that fix the reward scale
    reference_point: tuple[float, ...] = (0.0, 0.0)  # of the hyper-volume, in raw rewards
    evaluation_questions: int = 16  # judged now and then while training
    plan: PlanConfig = PlanConfig()  # for visa-jax plan

    def __post_init__(self):
        require(self.method == "moc", "method", f"{self.method!r} is not moc")
        require(len(self.moc.preferences) > 0, "moc.preferences", "is empty")
        require(
            len(self.runs.rewards) == len(self.moc.reward_names),
            "runs.rewards",
            f"{len(self.runs.rewards)} reward models for {len(self.moc.reward_names)} rewards",
        )
        require(
            self.preference_encoding in PREFERENCE_ENCODINGS,
            "preference_encoding",
            f"{self.preference_encoding!r} is not one of {', '.join(PREFERENCE_ENCODINGS)}",
        )
