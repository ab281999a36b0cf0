"""One VISA update of adapters on a frozen, quantised base: what moves, what stays, what a checkpoint holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from visa_jax import checkpoint
from visa_jax.methods.visa import VisaConfig, make_method
from visa_jax.models import DecoderConfig, make_decoder
from visa_jax.models.lora import LoraConfig, init_adapters
from visa_jax.models.quantize import quantize_params
from visa_jax.training.loop import Experiment, LoopConfig, make_programs, start
from visa_jax.training.optimizer import OptimizerConfig
from visa_jax.training.policy import make_lora_join, make_policy_fn
from visa_jax.types import PromptBatch, Scored

pytestmark = pytest.mark.usefixtures("quick_compiles")
LORA = LoraConfig(rank=2, alpha=4.0, pattern="attention/.*|mlp/.*")
METHOD = make_method(VisaConfig(reward_names=("a", "b"), reward_weights=(0.7, 0.3), num_generations=2))
CONFIG = LoopConfig(steps=4, prompts_per_step=2, optimizer=OptimizerConfig(learning_rate=0.02, warmup=0.0))


@pytest.fixture(params=["float", "int8", "nf4"])
def parts(request):
    """(programs, state at step 0, base, scored rows of a rollout by the policy)."""
    lm, init_fn = make_decoder(
        DecoderConfig(vocab_size=23, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=24)
    )
    base = init_fn(jax.random.key(0))
    base = base if request.param == "float" else quantize_params(base, request.param, block=8)
    experiment = Experiment(
        method=METHOD,
        lm=lm,
        policy_fn=make_policy_fn(lm, temperature=1.0),
        rewards=(),
        prompts_fn=lambda *_: None,
        group_size=2,
        max_new_tokens=5,
        end_id=2,
        pad_id=0,
        join_fn=make_lora_join(LORA),
    )
    state = start(experiment, CONFIG, {"decoder": init_adapters(jax.random.key(1), base, LORA)}, (), jax.random.key(2))
    programs = make_programs(experiment, CONFIG, state)
    prompt = jnp.asarray(np.random.default_rng(0).integers(3, 23, (2, 6)), jnp.int32)
    prompts = PromptBatch(
        prompt_NL=prompt,
        prompt_mask_NL=prompt > 0,
        condition_NM=jnp.zeros((2, 10)),
        context_NS=prompt,
        context_mask_NS=prompt > 0,
    )
    ref_params, prompts = jax.device_put(({"decoder": base}, prompts), jax.devices()[0])
    rollout = programs.rollout(state.params, ref_params, prompts, jax.random.key(3))
    reward_BK = jnp.asarray(np.random.default_rng(1).uniform(size=(4, 2)), jnp.float32)
    return programs, state, ref_params, Scored(rollout=rollout, reward_BK=reward_BK)


def test_a_step_moves_adapters_and_nothing_else(parts, compiles):
    programs, state, ref_params, scored = parts
    before = jax.tree.map(np.array, ref_params)
    adapters = jax.tree.map(np.array, state.params)
    state, metrics = programs.update(state, ref_params, scored)
    assert float(metrics["kl"]) == 0.0 and float(metrics["grad_norm"]) > 1e-4  # the reference: adapters off
    after, moved = flatten_dict(state.params), flatten_dict(adapters)
    moved = {path for path, leaf in moved.items() if not (leaf == after[path]).all()}
    assert moved == {path for path in flatten_dict(adapters) if path[-1] == "b"}  # dA = scale dW Bᵀ = 0 at B = 0
    compiles.reset()
    state, metrics = programs.update(state, ref_params, scored)
    assert compiles.count == 0, compiles.names
    assert float(metrics["kl"]) > 1e-7
    jax.tree.map(np.testing.assert_array_equal, ref_params, before)  # neither donated nor changed
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(adapters))  # AdamW's two, of adapters alone


def test_rollouts_follow_the_adapters(parts, compiles):
    """The next rollout's log-probabilities are those the update computes, without a new compilation."""
    programs, state, ref_params, scored = parts
    state, _ = programs.update(state, ref_params, scored)
    prompts, key = scored.rollout.prompts, jax.random.key(4)
    compiles.reset()
    rollout = programs.rollout(state.params, ref_params, prompts, key)
    assert compiles.count == 0, compiles.names
    off = programs.rollout(jax.tree.map(jnp.zeros_like, state.params), ref_params, prompts, key)
    assert not np.allclose(rollout.logp_BT, off.logp_BT, atol=1e-4)


def test_a_checkpoint_holds_adapters_alone(parts, tmp_path):
    _, state, _, _ = parts
    checkpoint.save(tmp_path, 1, state)
    again = checkpoint.restore(tmp_path, state)  # which refuses a leaf too many
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
    assert {path[-1] for path in flatten_dict(again.params)} == {"a", "b"}
