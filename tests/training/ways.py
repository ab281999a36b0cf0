"""A small VISA and a small MOC run on any mesh, for the tests of placement; also the program of a subprocess.

python -m tests.training.ways 8        # every way on 8 CPU devices against one device; prints the largest differences
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from visa_jax.methods import moc, visa
from visa_jax.models import DecoderConfig, make_critic, make_decoder
from visa_jax.models.lora import LoraConfig, init_adapters
from visa_jax.models.quantize import quantize_params
from visa_jax.parallel import MeshConfig
from visa_jax.rewards.base import Reward, TextReward, Texts
from visa_jax.training.loop import Experiment, Hooks, LoopConfig, start, train
from visa_jax.training.optimizer import OptimizerConfig
from visa_jax.training.placement import policy_axes
from visa_jax.training.policy import make_lora_join, make_policy_fn
from visa_jax.types import PromptBatch

ALONE = MeshConfig()
PROMPTS, GROUP, TOKENS, END, PAD = 8, 2, 6, 2, 0
SIZES = dict(vocab_size=48, width=32, layers=2, heads=8, kv_heads=4, head_dim=4, mlp_width=64, max_length=32)
PREFERENCES = ((0.25, 0.75), (0.5, 0.5), (1.0, 0.0))
LORA = LoraConfig(rank=2, alpha=4.0, pattern="attention/.*|mlp/.*")


def prompts_fn(key, step: int, own=None) -> PromptBatch:
    rng = np.random.default_rng(step)
    prompt = rng.integers(3, SIZES["vocab_size"], (PROMPTS, 7)).astype(np.int32)
    mask = np.arange(7)[None, :] < rng.integers(3, 8, PROMPTS)[:, None]
    condition = np.asarray(PREFERENCES, np.float32)[rng.integers(len(PREFERENCES), size=PROMPTS)]
    prompts = PromptBatch(
        prompt_NL=np.where(mask, prompt, PAD),
        prompt_mask_NL=mask,
        condition_NM=condition,
        context_NS=prompt,
        context_mask_NS=mask,
    )
    return jax.tree.map(lambda x: x if own is None else x[own], prompts)


def share(low: int):
    """Share of a completion's tokens at or above ``low``."""

    def score(_, rollout):
        hit_BT = (rollout.completion_BT >= low) & rollout.mask_BT
        return jnp.sum(hit_BT, axis=1) / jnp.maximum(jnp.sum(rollout.mask_BT, axis=1), 1)

    return score


def write(rollout) -> Texts:
    """Each completion as the numbers of its tokens."""
    rows = zip(np.asarray(rollout.completion_BT), np.asarray(rollout.mask_BT), strict=True)
    texts = [" ".join(map(str, token_T[mask_T])) for token_T, mask_T in rows]
    return Texts([""] * len(texts), texts, np.zeros((len(texts), 1)))


def text_share(low: int):
    """``share`` of what ``write`` wrote."""
    return lambda texts: np.asarray([np.mean([int(word) >= low for word in text.split()]) for text in texts.completion])


def make_run(method: str, *, lora: bool = False, quantize: str = "", texts: bool = False, end_id=END, **changes):
    """(experiment, params that are trained, reference params, method state) of a small run.

    With ``texts`` the second reward is the same number, read from texts on the host.
    """
    names = ("a", "b")
    if method == "visa":
        made = visa.make_method(
            visa.VisaConfig(reward_names=names, reward_weights=(0.7, 0.3), num_generations=GROUP, beta=0.04)
        )
        method_state = made.init()
    else:
        made = moc.make_method(
            moc.MocConfig(reward_names=names, preferences=PREFERENCES, num_generations=GROUP, phi=0.0)
        )
        method_state = made.init(jnp.asarray(np.random.default_rng(5).uniform(size=(16, 2)), jnp.float32))
    config = DecoderConfig(**SIZES | changes)
    lm, init_fn = make_decoder(config)
    base = init_fn(jax.random.key(0))
    if quantize:
        base = quantize_params(base, quantize, block=8)
    critic, critic_fn = {}, None
    if made.signals:
        critic_fn, init_critic = make_critic(config.width, made.signals)
        critic = {"critic": init_critic(jax.random.key(1))}
    params = {"decoder": init_adapters(jax.random.key(2), base, LORA) if lora else base, **critic}
    experiment = Experiment(
        method=made,
        lm=lm,
        policy_fn=make_policy_fn(lm, temperature=1.0, critic_fn=critic_fn),
        rewards=(
            Reward("a", share(20), ()),
            TextReward("b", text_share(35)) if texts else Reward("b", share(35), ()),
        ),
        texts_fn=write,
        prompts_fn=prompts_fn,
        group_size=GROUP,
        max_new_tokens=TOKENS,
        end_id=end_id,
        pad_id=PAD,
        axes_fn=lambda params: policy_axes(params, config),
        **({"join_fn": make_lora_join(LORA)} if lora else {}),
    )
    return experiment, params, {"decoder": base, **critic}, method_state


def make_config(mesh: MeshConfig = ALONE, **choices) -> LoopConfig:
    # A large eps: steps go with the gradient. With a small one Adam's first step is the sign of each entry, and where
    # that is 1e-8, its sign is that of a rounding. A large rate: steps of up to 1e-2. A small clip: the norm counts.
    optimizer = OptimizerConfig(learning_rate=1.0, eps=1.0, warmup=0.0, clip_norm=0.1)
    return LoopConfig(
        **dict(steps=2, prompts_per_step=PROMPTS, evaluate_every=0, checkpoint_every=0, optimizer=optimizer) | choices,
        mesh=mesh,
    )


def run(method: str, mesh: MeshConfig = ALONE, *, choices=None, **parts):
    """(params, list of metrics) after the steps of ``make_config``."""
    experiment, params, ref_params, method_state = make_run(method, **parts)
    config = make_config(mesh, **choices or {})
    state, told = start(experiment, config, params, method_state, jax.random.key(3)), []
    hooks = Hooks(lambda step, metrics: told.append(metrics), lambda *_: None, lambda *_: None, lambda: False)
    state = train(experiment, config, state, ref_params, hooks)
    jax.block_until_ready((params, ref_params, method_state))  # still there: the update donates copies
    return jax.tree.map(np.asarray, state.params), told


def difference(one, other) -> float:
    """The largest difference of parameters and metrics (seconds apart)."""
    worst = max(
        float(np.max(np.abs(a - b))) for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(other[0]), strict=True)
    )
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            if "second" not in name:
                worst = max(worst, abs(mine[name] - theirs[name]))
    return worst


def ways(devices: int) -> list[MeshConfig]:
    """Every way on so many devices."""
    found = [
        MeshConfig(data=devices),
        MeshConfig(fsdp=devices),
        MeshConfig(way="pmap", data=devices),
        MeshConfig(way="pmap_sharded", fsdp=devices),
    ]
    if devices % 4 == 0:
        found += [MeshConfig(fsdp=-1, tensor=2), MeshConfig(data=2, fsdp=-1, tensor=2)]
    return found


if __name__ == "__main__":
    count = int(sys.argv[1])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    for method in ("visa", "moc"):
        alone = run(method)
        for mesh in ways(count):
            print(method, mesh, difference(alone, run(method, mesh)), flush=True)
