"""VISA and MOC on a published model: adapters on a frozen int8 base, prompts in plain words (docs/real_models.md).

    visa-jax supervise --config=configs/hf.py:part=visa_sft,model=DIR --config.data.path=FILE --workdir=runs/hf/visa_sft
    visa-jax train --config=configs/hf.py:part=visa,model=DIR --config.data.path=FILE --workdir=runs/hf/visa

DIR is a Hugging Face directory or a name on the hub (Llama, Mistral, Qwen2/3, Gemma 2/3, GPT-2). The parts are those of
own_text.py, each a run in `runs`; `base` is a small model over DIR's vocabulary here, from which analyzer and reward
models start:

    VISA   base -> detector, analyzer -> visa_sft (from DIR) -> visa
    MOC    base -> reward (objective=0, objective=1) -> moc_sft (from DIR) -> moc

`chat` asks in the model's chat template. `tiny` shows on the testbed, in a minute of a CPU, that the two from DIR run.
Hardware: one GPU; for 8 billion parameters 24 GB while loading, then 12 GB beside activations and cache. [ours: all
numbers by the sizes, docs/real_models.md; no run of this size was made]
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data
from visa_jax_configs.own_text import make_part, parse_options

FROM_MODEL = ("visa_sft", "moc_sft")
ALL_LINEAR = "attention/.*|mlp/.*"  # QLoRA (Dettmers et al. 2023), section 4: adapters on every layer


def get_config(arg=None):
    options = parse_options(arg, runs="runs/hf", model="model", chat=False)
    section = data()
    config = make_part(options, section)
    section.value_run = f"{options.runs}/detector" if options.part == "visa_sft" and not options.tiny else ""
    section.tokenizer.directory = "" if options.tiny else options.model
    section.most_rows = 0
    if not options.tiny:
        section.template, section.chat = "json", options.chat
        section.sizes.update(question=64, text=192)
    if options.part in FROM_MODEL:
        config.start = options.model
        config.role.fit.batch_size = 8
        config.role.fit.optimizer.update(name="adamw", learning_rate=1e-4)
    elif options.part == "visa":
        config.runs.base = options.model
        config.pool_base_share = 0.5  # a published model says something worth rewriting
        config.visa.max_completion_length = section.sizes.text
    elif options.part == "moc":
        config.moc.max_completion_length = section.sizes.text
    if options.part in ("visa", "moc"):
        config.loop.micro_batches = 1 if options.tiny else config.loop.prompts_per_step
        config.loop.optimizer.learning_rate = 2e-5
    if options.part in ("moc_sft", "moc"):  # in words: a model that reads a learned map is of no Hugging Face family
        (config.role if options.part == "moc_sft" else config).preference_encoding = "text"
    if options.part in (*FROM_MODEL, "visa", "moc"):
        config.policy = policy(options)
    return config


def policy(options):
    """What of the model is trained, and how it is computed."""
    return ConfigDict(
        {
            "lora_rank": 2 if options.tiny else 64,  # [MOC's paper]
            "lora_alpha": 4.0 if options.tiny else 128.0,
            "lora_pattern": ALL_LINEAR,
            "quantize": "int8",
            "dtype": "float32" if options.tiny else "bfloat16",
            "remat": "none" if options.tiny else "full",
            "attention": "auto",
            "logp_chunk": 0,
        }
    )
