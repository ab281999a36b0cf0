"""The policy of MOC before RL: answers under the length limit behind random preference tags (MOC notes 6).

    visa-jax supervise --config=configs/moc_sft.py:tiny --workdir=runs/moc_sft

The tags say nothing about the answer yet: following them is what PPO has to teach.
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, fit, parse_arg, policy, preferences


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=200, start="runs/quickstart/base")
    config = ConfigDict()
    config.data = data()
    config.start = options.start
    role = config.role = ConfigDict()
    role.role = "moc_sft"
    role.seed = options.seed
    role.rows = 12000
    role.preferences = preferences()
    role.trunk = policy()
    role.fit = fit(steps=options.steps if options.tiny else 2 * options.steps, batch_size=64, learning_rate=2e-3)
    return config
