"""The policy as the update sees it: log-probabilities of given completions and critic values, one forward pass."""

from collections.abc import Callable

import jax.numpy as jnp

from visa_jax.models.lora import LoraConfig, attach
from visa_jax.rollout import completion_logps
from visa_jax.types import Array, LanguageModel, Params, Rollout


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
