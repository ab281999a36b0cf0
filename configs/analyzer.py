"""The Fact Analyzer and its held-out twin: does a text entail each sentence of another? (VISA notes 4)

    visa-jax supervise --config=configs/analyzer.py:tiny --workdir=runs/analyzer

Expected on held-out pairs: accuracy at least .95. [ours: all numbers]
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, fit, parse_arg, reader


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=200)
    config = ConfigDict()
    config.data = data()
    config.start = ""
    role = config.role = ConfigDict()
    role.role = "analyzer"
    role.seed = options.seed
    role.rows = 16000
    role.twins = 2
    role.trunk = reader()
    role.fit = fit(steps=options.steps if options.tiny else 2 * options.steps, batch_size=64, learning_rate=2e-3)
    return config
