"""Completions and their log-probabilities; a model comes in as ``types.LanguageModel``."""

from visa_jax.rollout.generate import generate as generate
from visa_jax.rollout.logprobs import completion_logps as completion_logps
from visa_jax.rollout.logprobs import completion_states as completion_states
from visa_jax.rollout.sampling import sample_token as sample_token
