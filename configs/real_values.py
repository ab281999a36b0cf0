"""VISA on real texts: answers of ValueBench rewritten towards values that ValueEval'23 teaches a detector.

    bash launch/reproduce_real_values.sh DATA        # every part, one after the other; DATA holds the two data sets
    visa-jax train --config=configs/real_values.py:part=visa,data=DATA --workdir=runs/real_values/visa

The parts are those of `own_text.py`. ValueEval has presence labels alone, so every label is +1 or 0 and no target lies
below 0. SFT's targets are drawn as RL draws them, from the detector's readings. No oracle: everything
is judged by a detector and an analyzer that learned from other questions than those that reward.
Hardware: two CPU cores, less than 30 minutes. Expected figures: docs/real_data.md.
"""

from visa_jax_configs.common import data
from visa_jax_configs.own_text import make_part, parse_options


def get_config(arg=None):
    options = parse_options(arg, data="data", runs="runs/real_values")
    section = data(
        path=f"{options.data}/valuebench",
        format="valuebench",
        value_path=f"{options.data}/valueeval23",
        value_format="valueeval",
    )
    section.tokenizer.vocab_size = 3072
    config = make_part(options, section)
    if options.part == "base" and not options.tiny:
        config.role.fit.steps *= 3  # SFT's held-out loss falls from 3.0 to 1.95: this is where it learns to copy
    if options.part == "visa":
        config.visa.lowest_target = 0.0
    return config
