"""A reward model of MOC: question and answer -> one number (MOC notes 10).

    visa-jax supervise --config=configs/reward_model.py:tiny,objective=0 --workdir=runs/reward_helpful
    visa-jax supervise --config=configs/reward_model.py:tiny,objective=1 --workdir=runs/reward_warm
    visa-jax supervise --config=configs/reward_model.py:model=DIR,objective=0 --config.data.path=FILE.jsonl \
        --config.data.fields.rewards="('clear','short')" --workdir=runs/reward_clear

objective 0 = helpful, 1 = warm, 2 = brief; of a file the place of the field. It starts from the base model, which knows
the facts; with `model` from a Hugging Face encoder or decoder, as MOC's GPT-2 (docs/real_models.md). [ours: numbers]
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, finetune, fit, parse_arg, policy


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=200, objective=0, start="runs/quickstart/base", model="")
    config = ConfigDict()
    config.data = data()
    config.start = options.model or options.start
    role = config.role = ConfigDict()
    role.role = "reward_model"
    role.seed = options.seed
    role.rows = 12000
    role.objective = options.objective
    role.trunk = policy()
    steps = options.steps if options.tiny else 2 * options.steps
    role.fit = finetune(steps) if options.model else fit(steps=steps, batch_size=64, learning_rate=2e-3)
    return config
