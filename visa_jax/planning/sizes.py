"""What a page has to say for a plan, where there are neither weights nor texts to read it from."""

import dataclasses

from visa_jax.config import require
from visa_jax.models import DecoderConfig


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Sizes of a run before anything is downloaded; ``train`` reads none of them."""

    decoder: DecoderConfig | None = None  # of the policy; None = read config.json in runs.start
    reader: DecoderConfig | None = None  # trunk of each learned reward; None = rewards are left out
    prompt_length: int = 512  # tokens of a prompt, padding included
    completion_length: int = 512  # tokens that a completion may have
    context_length: int = 256  # tokens that a reward reads beside the completion

    def __post_init__(self):
        for name in ("prompt_length", "completion_length", "context_length"):
            require(getattr(self, name) > 0, name, f"must be positive, not {getattr(self, name)}")
