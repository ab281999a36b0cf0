"""The policy: what of a decoder is trained, and how the update sees it, log-probabilities and critic values."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from visa_jax.config import FieldError, require
from visa_jax.models import DecoderConfig
from visa_jax.models.attention import CHOICES
from visa_jax.models.decoder import REMATS
from visa_jax.models.lora import LoraConfig, attach, init_adapters
from visa_jax.models.quantize import quantize_params
from visa_jax.rollout import completion_logps
from visa_jax.types import Array, LanguageModel, Params, Rollout

QUANTIZERS = ("", "int8", "nf4")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """What of a decoder is trained, and how it is computed: of a run of ours or of a Hugging Face model."""

    lora_rank: int = 0  # of adapters beside a frozen base; 0 = all parameters are trained
    lora_alpha: float = 128.0  # the code bases MOC compares with
    lora_pattern: str = "attention/(query|value)"  # which kernels, see models/lora.py
    quantize: str = ""  # of the frozen base: int8 | nf4
    dtype: str = "float32"  # of the computation and of what is frozen; what is trained is float32
    remat: str = "none"  # what the backward pass recomputes: none | full | dots
    attention: str = "auto"  # what computes it, see models/attention.py; auto = as its start says
    logp_chunk: int = 0  # tokens whose logits exist at once in an update; 0 = by their size (rollout/logprobs.py)

    def __post_init__(self):
        require(self.lora_rank >= 0, "lora_rank", f"must be 0 (no adapters) or more, not {self.lora_rank}")
        require(self.lora_alpha > 0, "lora_alpha", f"must be positive, not {self.lora_alpha}")
        choices = dict(quantize=QUANTIZERS, dtype=DTYPES, remat=REMATS, attention=CHOICES)
        for name, known in choices.items():
            shown = ", ".join(word or "''" for word in known)
            require(getattr(self, name) in known, name, f"{getattr(self, name)!r} is none of {shown}")
        frozen = self.lora_rank > 0 or not self.quantize
        require(frozen, "quantize", "is for a frozen base: set lora_rank, a kernel in few bits cannot be trained")
        require(self.logp_chunk >= 0, "logp_chunk", "must be >= 0")

    @property
    def lora(self) -> LoraConfig | None:
        """The adapters; None where all parameters are trained."""
        if not self.lora_rank:
            return None
        return LoraConfig(rank=self.lora_rank, alpha=self.lora_alpha, pattern=self.lora_pattern)

    @property
    def frozen_dtype(self) -> str:
        """Of a start's parameters: float32 where they will be trained."""
        return self.dtype if self.lora_rank else "float32"

    def computed(self, decoder: DecoderConfig) -> DecoderConfig:
        """``decoder`` with the choices that do not change what it is."""
        attention = decoder.attention if self.attention == "auto" else self.attention
        return dataclasses.replace(decoder, dtype=self.dtype, remat=self.remat, attention=attention)

    def freeze(self, params: Params) -> Params:
        """``params`` (arrays) as they are kept while they are not trained. FieldError naming the field."""
        params = jax.tree.map(lambda leaf: leaf.astype(self.dtype), params)
        if not self.quantize:
            return params
        try:
            return quantize_params(params, self.quantize)
        except FieldError as error:  # nf4: a width that its blocks do not divide
            raise FieldError("quantize", f"{self.quantize}: {error}") from None

    def adapters(self, key: Array, params: Params) -> Params:
        """Fresh adapters for ``params`` (arrays, records or shapes). FieldError naming the field of a bad pattern."""
        try:
            return init_adapters(key, params, self.lora)
        except FieldError as error:
            raise FieldError("lora_pattern", error.message) from None


def make_policy_fn(
    lm: LanguageModel, *, temperature: float, critic_fn: Callable | None = None, chunk: int | None = None
) -> Callable[[Params, Rollout], tuple[Array, Array]]:
    """``policy_fn(params, rollout) -> (logp_BT, critic_BTK)``; K = 0 without a critic.

    params = {"decoder": ..., "critic": ...}; the critic reads the states that predict each token.
    """

    def policy_fn(params: Params, rollout: Rollout) -> tuple[Array, Array]:
        logp_BT, state_BTD = completion_logps(lm, params["decoder"], rollout, temperature=temperature, chunk=chunk)
        if critic_fn is None:
            return logp_BT, jnp.zeros((*logp_BT.shape, 0), logp_BT.dtype)
        return logp_BT, critic_fn(params["critic"], state_BTD)

    return policy_fn


def make_lora_join(config: LoraConfig) -> Callable[[Params, Params], Params]:
    """The ``join_fn`` of a policy whose decoder is the reference's with adapters; a critic is trained as a whole.

    trained = {"decoder": adapters, "critic": ...}; the reference's params = {"decoder": base, "critic": ...} (a critic
    where the policy has one; what it says of the reference is not used). The reference is the policy, adapters off.
    """

    def join_fn(trained: Params, ref_params: Params) -> Params:
        return {**trained, "decoder": attach(ref_params["decoder"], trained["decoder"], config)}

    return join_fn
