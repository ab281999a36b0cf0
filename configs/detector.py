"""The value detector and its held-out twin: text -> ten values in (-1, 1) (VISA notes 3).

    visa-jax supervise --config=configs/detector.py:tiny --workdir=runs/detector

Twins train side by side on other data: the first rewards, the second only judges. [ours: all numbers]
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, fit, parse_arg, reader


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=280)
    config = ConfigDict()
    config.data = data()
    config.start = ""
    role = config.role = ConfigDict()
    role.role = "detector"
    role.seed = options.seed
    role.rows = 16000
    role.twins = 2
    role.trunk = reader()
    role.fit = fit(steps=options.steps if options.tiny else 2 * options.steps, batch_size=64, learning_rate=3e-3)
    return config
