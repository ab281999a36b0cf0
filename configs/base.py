"""The frozen base language model: a small decoder pretrained on the testbed (or on the user's text).

    visa-jax supervise --config=configs/base.py:tiny --workdir=runs/base

It answers questions for VISA, and every policy starts from it. [ours: all numbers]
Many small batches: 24 rows leave the plateau before copying after half the tokens that 48 need (LOG.md).
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, fit, parse_arg, policy


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=800)
    config = ConfigDict()
    config.data = data()
    config.start = ""
    role = config.role = ConfigDict()
    role.role = "base"
    role.seed = options.seed
    role.rows = 21600
    role.trunk = policy()
    role.fit = fit(steps=options.steps if options.tiny else 2 * options.steps, batch_size=24, learning_rate=4e-3)
    return config
