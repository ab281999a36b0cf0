"""The main job: every stage of the quickstart, its page and its budget of seconds on one core.

    bash launch/quickstart.sh            # 8 1/2 minutes on 2 cores, installing included (LOG.md)
    visa-jax quickstart --workdir=runs/quickstart

Two branches run side by side, one core each, about equally long. `fast` cuts every stage to a twelfth and leaves
the c = 1/2 row out (it shows that all works, not what the methods can do; 130 s); `full` adds the -MSE-alone row.
"""

from ml_collections import ConfigDict

from visa_jax_configs.common import parse_arg

# branch -> stage -> (page, argument, steps, seconds allowed)
STAGES = {
    "moc": {
        "detector": ("detector", "", 280, 120),
        "analyzer": ("analyzer", "", 200, 130),
        "moc_sft": ("moc_sft", "", 100, 50),
        "reward_helpful": ("reward_model", "objective=0", 200, 80),
        "moc": ("moc", "", 60, 140),
        "fixed_half": ("moc", "fixed_half", 60, 110),
        "linear_ppo": ("moc", "linear_ppo", 60, 110),
    },
    "visa": {
        "base": ("base", "", 800, 220),
        "reward_warm": ("reward_model", "objective=1", 150, 70),
        "visa_sft": ("visa_sft", "", 250, 130),
        "visa": ("visa", "", 110, 220),
        "translator": ("translator", "", 150, 40),
    },
}
FISHWOOD = ("", "fixed_half", "linear_ppo", "idle", "idle,fixed_half", "idle,linear_ppo")


def get_config(arg=None):
    options = parse_arg(arg, fast=False, tiny=False, full=False, seed=0)
    options.fast |= options.tiny  # the word that the other pages use
    config = ConfigDict()
    config.seed = options.seed
    config.mode = "fast" if options.fast else "full" if options.full else "standard"
    config.judged_rows = 64 if options.fast else 256  # rewrites a method is judged on
    config.judged_questions = 8 if options.fast else 64  # questions under each of 51 preferences
    config.fishwood = ("",) if options.fast else FISHWOOD
    for branch, stages in STAGES.items():
        if options.full and branch == "moc":
            stages = stages | {"mse_only": ("moc", "mse_only", 60, 110)}
        if options.fast:
            stages = {name: stage for name, stage in stages.items() if name != "fixed_half"}
        config[branch] = ConfigDict({"order": tuple(stages)})  # a ConfigDict forgets the order of its keys
        for name, (page, argument, steps, seconds) in stages.items():
            share = 12 if options.fast else 1
            config[branch][name] = ConfigDict(
                {"page": page, "argument": argument, "steps": max(steps // share, 8), "seconds": seconds / share}
            )
    return config
