"""MOC (arXiv 2604.04497): one preference-conditioned policy by multi-objective PPO, on the testbed.

    visa-jax train --config=configs/moc.py:tiny --workdir=runs/moc
    visa-jax train --config=configs/moc.py:tiny,linear_ppo --workdir=runs/linear_ppo

Baselines that change only the signals or weights: linear_ppo, fixed_half (c = 1/2), mse_only. Needs the runs that
`bash launch/quickstart.sh` makes (moc_sft, reward_helpful, reward_warm). Without `tiny` three times as long.
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import MOC_BASELINES, data, parse_arg, preferences


def get_config(arg=None):
    options = parse_arg(
        arg,
        tiny=False,
        seed=0,
        steps=60,
        runs="runs/quickstart",
        encoding="prefix",
        **dict.fromkeys(MOC_BASELINES, False),
    )
    chosen = [name for name in MOC_BASELINES if options[name]]
    if len(chosen) > 1:
        raise ValueError(f"arguments {' and '.join(chosen)}: one at a time")
    config = ConfigDict()
    config.method = "moc"
    config.seed = options.seed
    config.data = data()
    config.runs = ConfigDict(
        {
            "start": f"{options.runs}/moc_sft",
            "rewards": (f"{options.runs}/reward_helpful", f"{options.runs}/reward_warm"),
        }
    )
    config.preference_encoding = options.encoding  # text: tags and digits before the question, needs far more steps
    config.questions = 512
    config.normalizer_samples = 256
    config.reference_point = (0.0, 0.0)
    config.evaluation_questions = 8

    moc = config.moc = ConfigDict()
    moc.reward_names = ("helpful", "warm")
    moc.preferences = preferences()
    moc.signals = "bi"  # [read]
    moc.weights = "min_norm"  # [paper]
    moc.solve = "preference"  # [ours]
    moc.normalize = "whiten"  # [ours]
    moc.advantage = "group"  # [ours]; gae = PPO with K + 1 critic heads [paper]
    moc.num_generations = 8
    moc.epsilon = 0.2
    moc.kl_initial = 0.1  # [ours] for the testbed: with .01 the policies left the language for what the models liked
    moc.kl_target = 6.0  # nats a completion
    moc.kl_horizon = 1000  # completions over which the weight adapts: a run here is short
    moc.max_completion_length = 25

    loop = config.loop = ConfigDict()
    loop.steps = options.steps if options.tiny else 3 * options.steps
    loop.prompts_per_step = 16
    loop.temperature = 0.7
    loop.epochs = 1
    loop.minibatches = 1
    loop.evaluate_every = 40
    loop.checkpoint_every = 60
    loop.optimizer = ConfigDict({"learning_rate": 1e-3, "decay": "linear", "final_scale": 0.2, "clip_norm": 1.0})
    for name in chosen:
        moc.update(MOC_BASELINES[name])
    return config
