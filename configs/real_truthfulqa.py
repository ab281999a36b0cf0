"""MOC on real labels: one policy for every preference between truthful and informative answers (TruthfulQA).

    bash launch/reproduce_truthfulqa.sh DATA        # every part, one after the other; DATA holds the data set
    visa-jax train --config=configs/real_truthfulqa.py:part=moc,data=DATA --workdir=runs/real_truthfulqa/moc

The parts are those of `own_text.py`; objective 0 is truthful, 1 informative. Reward models and their held-out judges
learn from different questions, and the policy is judged on questions that nobody learned from.
Hardware: one CPU core, 21 minutes. Expected figures: docs/real_data.md.
"""

from visa_jax_configs.common import data
from visa_jax_configs.own_text import make_part, parse_options


def get_config(arg=None):
    options = parse_options(arg, data="data", runs="runs/real_truthfulqa", rewards="truthful+informative")
    section = data(path=f"{options.data}/truthfulqa", format="truthfulqa")
    section.tokenizer.vocab_size = 2048
    section.sizes.update({"question": 24, "text": 32})
    config = make_part(options, section)
    if options.part == "moc":
        config.moc.max_completion_length = 32
    return config
