"""FishWood: one small network follows any preference between fish and wood; the front is known.

Reproduces the toy experiment of MOC (arXiv 2604.04497): MOC's points lie in order along the front where linear PPO
jumps from corner to corner. The quickstart runs it; by itself:

    visa-jax train --config=configs/fishwood.py --workdir=runs/fishwood
    visa-jax train --config=configs/fishwood.py:linear_ppo --workdir=runs/fishwood_linear

Variants, also together (`:idle,fixed_half,seed=1`): `idle` adds a third place that earns nothing, so that a policy
can miss the front; `linear_ppo`, `fixed_half` (c = 1/2) and `mse_only` are the baselines; `tiny` only shows that it
runs.

Hardware: 2 CPU cores, EXPECTED_SECONDS, most of them compilation.
Expected, eleven preferences of 512 episodes each, mean of seeds 0, 1, 2:

EXPECTED_TABLE
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import parse_arg

# What each row changes in `moc`; the same numbers as visa_jax/methods/baselines.py.
BASELINES = {
    "linear_ppo": {"signals": "linear", "weights": "uniform"},
    "fixed_half": {"signals": "bi", "weights": "uniform"},
    "mse_only": {"signals": "mse", "weights": "uniform"},
}


def get_config(arg=None):
    options = parse_arg(arg, seed=0, idle=False, tiny=False, **dict.fromkeys(BASELINES, False))
    chosen = [name for name in BASELINES if options[name]]
    if len(chosen) > 1:
        raise ValueError(f"arguments {' and '.join(chosen)}: one at a time")

    config = ConfigDict()
    config.seed = options.seed
    config.idle = options.idle
    config.steps = 300
    config.preferences_per_step = 16
    config.epochs = 1
    config.minibatches = 1
    config.units = 32
    config.evaluation_episodes = 512
    config.progress_chunks = 20

    moc = config.moc = ConfigDict()
    moc.reward_names = ("fish", "wood")
    moc.preferences = tuple((i / 20, 1 - i / 20) for i in range(21))
    moc.signals = "bi"
    moc.weights = "min_norm"
    moc.solve = "preference"
    moc.normalize = "whiten"
    moc.advantage = "group"  # one score per episode: nothing a critic of place and preference could foresee
    moc.num_generations = 16  # with 16 preferences 256 episodes a step
    moc.phi = 0.0
    moc.epsilon = 0.2
    moc.kl_initial = 0.0  # there is no reference policy to stay close to
    moc.max_completion_length = 200

    optimizer = config.optimizer = ConfigDict()
    optimizer.learning_rate = 6e-3
    optimizer.warmup = 0.03
    optimizer.decay = "linear"
    optimizer.final_scale = 0.1
    optimizer.clip_norm = 1.0

    for name in chosen:
        moc.update(BASELINES[name])
    if options.tiny:
        config.update({"steps": 10, "preferences_per_step": 4, "evaluation_episodes": 16, "progress_chunks": 2})
        moc.num_generations = 4
    return config
