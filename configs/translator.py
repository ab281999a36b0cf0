"""The semantic-to-value translator: a wish in plain words -> a shift in [-2, 2]^10 (VISA notes 3).

    visa-jax supervise --config=configs/translator.py:tiny --workdir=runs/translator

Expected on held-out wordings: sign accuracy .99, false activation below .01. [ours: all numbers]
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, fit, parse_arg, reader


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=400)
    config = ConfigDict()
    config.data = data()
    config.start = ""
    role = config.role = ConfigDict()
    role.role = "translator"
    role.seed = options.seed
    role.rows = 12000
    role.trunk = reader()
    role.fit = fit(steps=options.steps if options.tiny else 2 * options.steps, batch_size=64, learning_rate=4e-3)
    return config
