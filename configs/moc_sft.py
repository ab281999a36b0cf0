"""The policy of MOC before RL: answers under the length limit, whatever the preference (MOC notes 6).

    visa-jax supervise --config=configs/moc_sft.py:tiny --workdir=runs/moc_sft
    visa-jax supervise --config=configs/moc_sft.py:tiny,encoding=text --workdir=runs/moc_sft_text

With encoding=text (or symbol) random preferences stand before the questions; they say nothing about the answer yet.
Following a preference is what PPO has to teach.
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, fit, parse_arg, policy, preferences


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=100, start="runs/quickstart/base", encoding="prefix")
    config = ConfigDict()
    config.data = data()
    config.start = options.start
    role = config.role = ConfigDict()
    role.role = "moc_sft"
    role.seed = options.seed
    role.rows = 12000
    role.preferences = preferences()
    role.preference_encoding = options.encoding
    role.trunk = policy()
    role.fit = fit(steps=options.steps if options.tiny else 2 * options.steps, batch_size=64, learning_rate=2e-3)
    return config
