"""VISA (arXiv 2603.04822): GRPO of the value rewriter with the composite reward, on the testbed.

    visa-jax train --config=configs/visa.py:tiny --workdir=runs/visa

Needs the runs that `bash launch/quickstart.sh` makes (base, visa_sft, detector, analyzer), or your own:
--config.runs.detector=DIR and so on. Without `tiny` the same run is three times as long.
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import data, parse_arg


def get_config(arg=None):
    options = parse_arg(arg, tiny=False, seed=0, steps=110, runs="runs/quickstart")
    config = ConfigDict()
    config.method = "visa"
    config.seed = options.seed
    config.data = data()
    config.runs = ConfigDict(
        {name: f"{options.runs}/{name}" for name in ("base", "detector", "analyzer", "translator")}
        | {"start": f"{options.runs}/visa_sft"}
    )
    config.value_reward = "cos+l2"  # [ours]: the paper's cosine cannot see strength
    config.pool = 2048
    config.pool_base_share = 0.5  # [ours]
    config.evaluation_rows = 64

    visa = config.visa = ConfigDict()
    visa.reward_names = ("value", "consistency", "format", "length")
    visa.reward_weights = (0.35, 0.65, 1.0, 0.1)  # [paper: weighted sum of two proxies; numbers ours, LOG.md]
    visa.loss_type = "grpo"  # [paper]
    visa.num_generations = 8  # [ours]
    visa.epsilon = 0.2  # [ours]
    visa.beta = 0.04  # [ours]; at .01 a quarter of the texts became unreadable for a little more reward (LOG.md)
    visa.max_completion_length = 32

    loop = config.loop = ConfigDict()
    loop.steps = options.steps if options.tiny else 3 * options.steps
    loop.prompts_per_step = 16
    loop.temperature = 0.7  # [ours]: twice the reward per step of 1.0 here, where every tenth sentence was unreadable
    loop.evaluate_every = 50
    loop.checkpoint_every = 100
    loop.optimizer = ConfigDict({"learning_rate": 1e-3, "decay": "linear", "final_scale": 0.2, "clip_norm": 1.0})
    return config
