"""FishWood: one small network follows any preference between fish and wood; the front is known.

Reproduces the toy experiment of MOC (arXiv 2604.04497): MOC's points lie in order along the front where linear PPO
jumps from corner to corner. The quickstart runs it; by itself:

    visa-jax train --config=configs/fishwood.py --workdir=runs/fishwood
    visa-jax train --config=configs/fishwood.py:linear_ppo --workdir=runs/fishwood_linear

Variants, also together (`:idle,fixed_half,seed=1`): `idle` adds a third place that earns nothing, so that a policy
can miss the front; `linear_ppo`, `fixed_half` (c = 1/2) and `mse_only` are the baselines; `tiny` only shows that it
runs.

Hardware: 2 CPU cores, 6 to 9 s (about 8 s of CPU, most of it compilation).
Expected, eleven preferences of 512 episodes each, mean and deviation of seeds 0, 1, 2; a policy exactly on the front
at every p has tau 1, control error 0, hyper-volume .45, and fish + wood weighted by p of .691:

               tau         control error   hyper-volume   p-weighted
    moc        1.00 ± .00  .0018 ± .0002   .453 ± .002    .694         idle: 1.00  .0018 ± .0006  .452 ± .002
    fixed_half 1.00 ± .00  .0020 ± .0004   .453 ± .001    .693               1.00  .0016 ± .0002  .453 ± .001
    mse_only   1.00 ± .00  .0018 ± .0004   .452 ± .001    .696               1.00  .0018 ± .0002  .432 ± .011
    linear_ppo  .72 ± .03  .1186 ± .0096   .193 ± .054    .772                .73  .1108 ± .0048  .234 ± .025

What control there is comes from the control signal: min-norm adds nothing to c = 1/2 here. The reward signal keeps a
policy from idling. Linear PPO solves its own problem nearly perfectly (the best p-weighted sum is .773, at the
corners). With a learning rate of 3e-4 the same 300 steps stop it half-way (.684), and its control error is .010: early
stopping, no following of p. Learning rates for MOC: 3e-3 to 1e-2 are alike; at 1.5e-2 to 4e-2 some seeds end in the
alternating policy (half fish for every p above .5, control error .1).
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import MOC_BASELINES, parse_arg


def get_config(arg=None):
    options = parse_arg(arg, seed=0, idle=False, tiny=False, **dict.fromkeys(MOC_BASELINES, False))
    chosen = [name for name in MOC_BASELINES if options[name]]
    if len(chosen) > 1:
        raise ValueError(f"arguments {' and '.join(chosen)}: one at a time")

    config = ConfigDict()
    config.method = "fishwood"
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
        moc.update(MOC_BASELINES[name])
    if options.tiny:
        config.update({"steps": 10, "preferences_per_step": 4, "evaluation_episodes": 16, "progress_chunks": 2})
        moc.num_generations = 4
    return config
