"""What the pages of published models share: their decoders' sizes, and the two methods at the papers' scale.

Sizes are those of each model's published config.json; they stand here so that `visa-jax plan` needs no download.
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, parse_arg, preferences

_QWEN3 = {
    "vocab_size": 151_936,
    "kv_heads": 8,
    "head_dim": 128,
    "qk_norm": True,
    "norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_length": 40_960,
}
QWEN3_0_6B = _QWEN3 | {"width": 1024, "layers": 28, "heads": 16, "mlp_width": 3072, "tie_embeddings": True}
QWEN3_4B = _QWEN3 | {"width": 2560, "layers": 36, "heads": 32, "mlp_width": 9728, "tie_embeddings": True}
QWEN3_8B = _QWEN3 | {"width": 4096, "layers": 36, "heads": 32, "mlp_width": 12_288, "tie_embeddings": False}
LLAMA31_8B = {
    "vocab_size": 128_256,
    "width": 4096,
    "layers": 32,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "mlp_width": 14_336,
    "norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": {"kind": "llama3", "factor": 8.0, "original_length": 8192},
    "tie_embeddings": False,
    "max_length": 131_072,
}
LLAMA2_7B = {
    "vocab_size": 32_000,
    "width": 4096,
    "layers": 32,
    "heads": 32,
    "kv_heads": 32,
    "head_dim": 128,
    "mlp_width": 11_008,
    "norm_eps": 1e-5,
    "tie_embeddings": False,
    "max_length": 4096,
}
# trunk of each learned reward: as large as DeBERTa-v3-base [ours] and as GPT-2 large [read], in our decoder's parts
SMALL_READER = {"width": 768, "layers": 12, "heads": 12, "kv_heads": 12, "head_dim": 64, "mlp_width": 3072}
LARGE_READER = {"width": 1280, "layers": 36, "heads": 20, "kv_heads": 20, "head_dim": 64, "mlp_width": 5120}

_DEFAULTS = {"tiny": False, "seed": 0, "prompts": 64, "micro_batches": 1, "fsdp": -1, "tensor": 1}


def policy(**changes) -> ConfigDict:
    """A whole decoder, computed in bfloat16, each block computed again in the backward pass."""
    return ConfigDict({"dtype": "bfloat16", "remat": "full", "attention": "auto"} | changes)


def reader(sizes: dict, vocab_size: int) -> ConfigDict:
    """Trunk of a learned reward over the policy's vocabulary."""
    choices = {"vocab_size": vocab_size, "gated": False, "activation": "gelu_tanh", "max_length": 4096}
    return ConfigDict(sizes | choices | {"dtype": "bfloat16"})


def loop(options: ConfigDict) -> ConfigDict:
    """Sizes of a step, and fsdp over all devices that tensor leaves; `tiny` makes four steps."""
    section = ConfigDict({"steps": 4 if options.tiny else 500})
    section.update({"prompts_per_step": options.prompts, "micro_batches": options.micro_batches})
    section.length_buckets = 4  # a piece of short completions is computed in a quarter of the columns
    section.temperature = 1.0
    section.evaluate_every = 50
    section.checkpoint_every = 50
    section.reward_dtype = "bfloat16"  # every chip has reward models whole
    section.mesh = ConfigDict({"data": 1, "fsdp": options.fsdp, "tensor": options.tensor})
    section.optimizer = ConfigDict({"learning_rate": 1e-6, "decay": "constant", "clip_norm": 1.0})
    return section


def visa_page(arg, name: str, decoder: dict, **sizes) -> ConfigDict:
    """VISA with a published model, trained as a whole.

    Args:
      sizes: ``prompts`` and ``micro_batches`` of a step, and mesh axes; a page's argument can change each.
    """
    options = parse_arg(arg, runs="runs/values", model=f"models/{name}", **_DEFAULTS | sizes)
    config = ConfigDict()
    config.method = "visa"
    config.seed = options.seed
    config.data = data(path="data/questions.jsonl")
    config.data.sizes.update({"question": 128, "text": 512})
    config.data.tokenizer.directory = options.model
    config.data.template = "json"  # prompts in plain words, with the model's own tokens
    config.runs = ConfigDict({name: f"{options.runs}/{name}" for name in ("detector", "analyzer", "translator")})
    config.runs.update({"base": options.model, "start": options.model})
    config.policy = policy()
    config.visa = ConfigDict({"num_generations": 8, "beta": 0.04, "max_completion_length": 512})
    config.loop = loop(options)
    config.plan = ConfigDict({"decoder": decoder, "reader": reader(SMALL_READER, decoder["vocab_size"])})
    config.plan.update({"prompt_length": 512, "completion_length": 512, "context_length": 512})
    return config


def moc_page(arg, name: str, decoder: dict, **sizes) -> ConfigDict:
    """MOC with a published model and LoRA of rank 64 on its frozen kernels [paper]."""
    options = parse_arg(arg, runs="runs/rewards", model=f"models/{name}", single=False, **_DEFAULTS | sizes)
    config = ConfigDict()
    config.method = "moc"
    config.seed = options.seed
    config.data = data(path="data/questions.jsonl")
    config.data.sizes.update({"question": 512, "text": 128})
    config.data.tokenizer.directory = options.model
    config.data.template = "json"  # prompts in plain words, with the model's own tokens
    config.runs = ConfigDict({"start": options.model})
    config.runs.rewards = (f"{options.runs}/helpful", f"{options.runs}/harmless")
    config.preference_encoding = "text"
    config.policy = policy(lora_rank=64, lora_alpha=128.0, lora_pattern="attention/.*|mlp/.*")
    config.moc = ConfigDict({"reward_names": ("helpful", "harmless"), "preferences": preferences()})
    config.moc.update({"num_generations": 1, "max_completion_length": 128})  # PPO with critic heads [paper]
    config.loop = loop(options)
    config.loop.optimizer.learning_rate = 1e-5
    config.plan = ConfigDict({"decoder": decoder, "reader": reader(LARGE_READER, decoder["vocab_size"])})
    config.plan.update({"prompt_length": 512, "completion_length": 128, "context_length": 512})
    if options.single:  # one card of 48 GB: the base in four bits, a row at a time
        config.policy.quantize = "nf4"
        config.loop.mesh.fsdp = config.loop.mesh.tensor = 1
        config.loop.micro_batches = options.prompts
        config.loop.rollout_batches = max(options.prompts // 16, 1)  # keys and values of 16 prompts at a time
    return config
