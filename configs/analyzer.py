"""The Fact Analyzer and its held-out twin: does a text entail each sentence of another? (VISA notes 4)

    visa-jax supervise --config=configs/analyzer.py:tiny --workdir=runs/analyzer
    visa-jax supervise --config=configs/analyzer.py:model=DIR --config.data.path=FILE.jsonl --workdir=runs/analyzer

With `model` it starts from a Hugging Face encoder or decoder and becomes an NLI model (docs/real_models.md).
Expected on held-out pairs: accuracy at least .95. [ours: all numbers]
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, finetune, fit, parse_arg, reader


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=200, model="")
    config = ConfigDict()
    config.data = data()
    config.start = options.model
    role = config.role = ConfigDict()
    role.role = "analyzer"
    role.seed = options.seed
    role.rows = 16000
    role.twins = 2
    role.trunk = reader()
    steps = options.steps if options.tiny else 2 * options.steps
    role.fit = finetune(steps) if options.model else fit(steps=steps, batch_size=64, learning_rate=2e-3)
    return config
