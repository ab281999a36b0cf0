"""The value detector and its held-out twin: text -> ten values in (-1, 1) (VISA notes 3).

    visa-jax supervise --config=configs/detector.py:tiny --workdir=runs/detector
    visa-jax supervise --config=configs/detector.py:model=DIR --config.data.path=FILE.jsonl \
        --config.data.fields.values=values --workdir=runs/detector

Twins train side by side on other data: the first rewards, the second only judges. With `model` they start from a
Hugging Face encoder or decoder (docs/real_models.md). [ours: all numbers]
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, finetune, fit, parse_arg, reader


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=280, model="")
    config = ConfigDict()
    config.data = data()
    config.start = options.model
    role = config.role = ConfigDict()
    role.role = "detector"
    role.seed = options.seed
    role.rows = 16000
    role.twins = 2
    role.trunk = reader()
    steps = options.steps if options.tiny else 2 * options.steps
    role.fit = finetune(steps) if options.model else fit(steps=steps, batch_size=64, learning_rate=3e-3)
    return config
