"""VISA and MOC on a file of your own: one page for every part, `part=...` says which (docs/real_data.md).

    visa-jax supervise --config=configs/own_text.py:part=base --config.data.path=FILE.jsonl --workdir=runs/own/base

Rows need a question and an answer; value labels (`--config.data.fields.values=FIELD`) teach a detector, numbers
(`--config.data.fields.rewards="('a','b')"`) teach MOC's reward models. Parts, each a run in `runs`:

    VISA   base -> detector, analyzer -> visa_sft -> visa        (visa by `visa-jax train`, the others by `supervise`)
    MOC    base -> moc_sft, reward (objective=0, objective=1) -> moc        (moc by `visa-jax train`)

All of them read the tokenizer that `base` trained. Hardware: 2 CPU cores, 10 to 30 minutes a chain. `scale=2` doubles
the steps of a part, `tiny` only shows that every part runs. `reader=DIR` gives detector, analyzer and reward models a
Hugging Face encoder or decoder to start from (docs/real_models.md). [ours: all numbers]
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import MOC_BASELINES, data, finetune, fit, parse_arg, policy, preferences

# role, training rows, steps, batch, learning rate
SUPERVISED = {
    "base": ("base", 24000, 600, 24, 3e-3),
    "detector": ("detector", 8000, 1, 48, 1e-3),  # solved, not trained: see RIDGE
    "analyzer": ("analyzer", 8000, 150, 32, 1e-3),
    "visa_sft": ("visa_sft", 6400, 200, 32, 1e-3),
    "moc_sft": ("moc_sft", 11000, 200, 48, 1e-3),
    "reward": ("reward_model", 8000, 150, 48, 1e-3),
}
RIDGE = 5.0  # of the detector, linear in its words: on a few thousand texts better than a small transformer (LOG.md)
READERS, READER_STEPS = ("detector", "analyzer", "reward"), 400  # with `reader`
TINY = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp_width": 32}


def get_config(arg=None):
    options = parse_options(arg, runs="runs/own")
    return make_part(options, data())


def parse_options(arg, **defaults):
    """The argument string of this page and of those that stand on it."""
    known = dict(part="visa", tiny=False, scale=1.0, seed=0, objective=0, rewards="first+second", reader="")
    options = parse_arg(arg, **(known | defaults), **dict.fromkeys(MOC_BASELINES, False))
    if options.part not in (*SUPERVISED, "visa", "moc"):
        raise ValueError(f"argument part={options.part}: expected one of {', '.join((*SUPERVISED, 'visa', 'moc'))}")
    return options


def make_part(options, section):
    """The config of one part, over a data section."""
    if options.part != "base":
        section.tokenizer.directory = f"{options.runs}/base/tokenizer"
    if options.part == "visa_sft":
        section.value_run = f"{options.runs}/detector"
    if options.tiny:
        section.most_rows = 200
    make = {"visa": visa, "moc": moc}.get(options.part, supervised)
    config = make(options)
    config.data = section
    return config


def supervised(options):
    """A part that `visa-jax supervise` trains, starting from the base model."""
    role_name, rows, steps, batch, rate = SUPERVISED[options.part]
    config = ConfigDict()
    config.start = "" if options.part in ("base", "detector") else f"{options.runs}/base"
    config.patience = 0 if options.tiny or not options.part.endswith("sft") else 3
    role = config.role = ConfigDict()
    role.role = role_name
    role.seed = options.seed
    role.rows = 64 if options.tiny else rows
    role.twins = 2 if options.part in ("detector", "analyzer", "reward") else 0
    role.objective = options.objective
    role.preferences = preferences() if options.part == "moc_sft" else ()
    role.preference_encoding = "prefix"
    role.ridge = RIDGE if options.part == "detector" else 0.0
    role.trunk = ConfigDict(TINY) if options.tiny else policy()
    steps = 3 if options.tiny else max(round(options.scale * steps), 1)
    role.fit = fit(steps=steps, batch_size=8 if options.tiny else batch, learning_rate=rate)
    if role.twins:
        role.fit.optimizer.name = "adamw"  # twins start from the base model, and Muon takes minutes to compile for two
    if options.reader and options.part in READERS:
        config.start, role.ridge = options.reader, 0.0
        role.fit = finetune(3 if options.tiny else max(round(options.scale * READER_STEPS), 1))
    return config


def visa(options):
    """GRPO of the rewriter on the file's own answers."""
    config = ConfigDict()
    config.method = "visa"
    config.seed = options.seed
    config.runs = ConfigDict({name: f"{options.runs}/{name}" for name in ("base", "detector", "analyzer")})
    config.runs.start = f"{options.runs}/visa_sft"
    config.runs.translator = ""
    config.value_reward = "cos+l2"
    config.pool = 32 if options.tiny else 2048
    config.pool_base_share = 0.0  # a base model of this size says nothing worth rewriting: the texts are the sources
    config.evaluation_rows = 16 if options.tiny else 64
    config.visa = ConfigDict(
        {
            "reward_names": ("value", "consistency", "format", "length"),
            # each reward is normalised by itself: a small detector's readings move by hundredths, kept sentences by
            # tenths, and in their plain sum nobody hears the values (LOG.md)
            "reward_weights": (1.0, 0.5, 0.5, 0.1),
            "aggregation": "normalize_then_sum",
            "loss_type": "grpo",
            "num_generations": 4 if options.tiny else 8,
            "epsilon": 0.2,
            "beta": 0.02,
            "max_completion_length": 48,
            "lowest_target": -1.0,
        }
    )
    config.loop = loop(options, steps=200, prompts=8)
    return config


def moc(options):
    """One policy for every preference between the file's two rewards."""
    chosen = [name for name in MOC_BASELINES if options[name]]
    if len(chosen) > 1:
        raise ValueError(f"arguments {' and '.join(chosen)}: one at a time")
    config = ConfigDict()
    config.method = "moc"
    config.seed = options.seed
    names = tuple(options.rewards.split("+"))
    config.runs = ConfigDict(
        {"start": f"{options.runs}/moc_sft", "rewards": tuple(f"{options.runs}/reward_{name}" for name in names)}
    )
    config.preference_encoding = "prefix"
    config.questions = 64 if options.tiny else 512
    config.normalizer_samples = 32 if options.tiny else 256
    config.reference_point = (0.0,) * len(names)
    config.evaluation_questions = 2 if options.tiny else 16
    config.moc = ConfigDict(
        {
            "reward_names": names,
            "preferences": preferences(),
            "signals": "bi",
            "weights": "min_norm",
            "solve": "preference",
            "normalize": "whiten",
            "advantage": "group",
            "num_generations": 4 if options.tiny else 8,
            "kl_initial": 0.1,
            "kl_target": 8.0,
            "max_completion_length": 48,
        }
    )
    for name in chosen:
        config.moc.update(MOC_BASELINES[name])
    config.loop = loop(options, steps=150, prompts=16)
    return config


def loop(options, *, steps, prompts):
    """The RL loop of either method."""
    return ConfigDict(
        {
            "steps": 3 if options.tiny else max(round(options.scale * steps), 1),
            "prompts_per_step": 2 if options.tiny else prompts,
            "temperature": 0.7,  # what the testbed taught, like the rate and the KL weights (LOG.md)
            "evaluate_every": 2 if options.tiny else 50,
            "checkpoint_every": 100,
            "optimizer": {"learning_rate": 7e-4, "decay": "linear", "final_scale": 0.2, "clip_norm": 1.0},
        }
    )
