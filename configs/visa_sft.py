"""The rewriter before RL: supervised on references that share only part of the facts (VISA notes 7).

    visa-jax supervise --config=configs/visa_sft.py:tiny --workdir=runs/visa_sft

It is the SFT baseline, trained until its held-out loss stops falling, and the start of GRPO.
Expected: values right, consistency low (about half of the facts are shared): the data cannot teach fidelity.
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, fit, parse_arg, policy


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=250, start="runs/quickstart/base")
    config = ConfigDict()
    config.data = data()
    config.start = options.start
    config.patience = 3
    role = config.role = ConfigDict()
    role.role = "visa_sft"
    role.seed = options.seed
    role.rows = 16000
    role.trunk = policy()
    role.fit = fit(steps=options.steps if options.tiny else 2 * options.steps, batch_size=32, learning_rate=3e-3)
    return config
