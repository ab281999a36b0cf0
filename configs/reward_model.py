"""A reward model of MOC: question and answer -> one number (MOC notes 10).

    visa-jax supervise --config=configs/reward_model.py:tiny,objective=0 --workdir=runs/reward_helpful
    visa-jax supervise --config=configs/reward_model.py:tiny,objective=1 --workdir=runs/reward_warm

objective 0 = helpful, 1 = warm, 2 = brief. It starts from the base model, which knows the facts. [ours: all numbers]
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, fit, parse_arg, policy


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=200, objective=0, start="runs/quickstart/base")
    config = ConfigDict()
    config.data = data()
    config.start = options.start
    role = config.role = ConfigDict()
    role.role = "reward_model"
    role.seed = options.seed
    role.rows = 12000
    role.objective = options.objective
    role.trunk = policy()
    role.fit = fit(steps=options.steps if options.tiny else 2 * options.steps, batch_size=64, learning_rate=2e-3)
    return config
