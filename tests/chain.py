"""A chain of tiny runs, as a user would make them one after the other: what commands and end-to-end tests open.

One layer of width 16, two steps each: nothing is learned, everything is in its place.
"""

import dataclasses
from pathlib import Path

import jax
import pytest

from visa_jax.cli.configs import MocRuns, MocTrainConfig, VisaRuns, VisaTrainConfig
from visa_jax.cli.runs import claim_workdir
from visa_jax.cli.sources import make_source
from visa_jax.cli.supervise import SuperviseConfig, open_start, supervise
from visa_jax.cli.train import open_parts, train_run
from visa_jax.config import to_config_dict, to_json
from visa_jax.data.tokenizer import make_testbed_tokenizer
from visa_jax.evaluation import parts as quality
from visa_jax.methods.moc import MocConfig
from visa_jax.methods.visa import VisaConfig
from visa_jax.models import DecoderConfig, make_decoder, save_pretrained
from visa_jax.training.loop import LoopConfig
from visa_jax.training.optimizer import OptimizerConfig
from visa_jax.training.roles import RoleConfig, TrunkConfig
from visa_jax.training.supervised import FitConfig

TRUNK = TrunkConfig(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16)
PREFERENCES = ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0))
SUPERVISED = {
    "base": ("base", {}),
    "visa_sft": ("visa_sft", {}),
    "detector": ("detector", {"twins": 2}),
    "analyzer": ("analyzer", {"twins": 2}),
    "translator": ("translator", {}),
    "moc_sft": ("moc_sft", {"preferences": PREFERENCES, "preference_encoding": "prefix"}),
    "reward_helpful": ("reward_model", {"objective": 0}),
    "reward_warm": ("reward_model", {"objective": 1}),
}


def loop_config(**changes) -> LoopConfig:
    settings = {"steps": 4, "prompts_per_step": 2, "evaluate_every": 0, "checkpoint_every": 2}
    return LoopConfig(**settings | {"optimizer": OptimizerConfig(learning_rate=1e-2)} | changes)


def visa_config(directory: Path, **changes) -> VisaTrainConfig:
    """A VISA run on the chain's parts."""
    names = {name: str(directory / name) for name in ("base", "detector", "analyzer", "translator")}
    config = VisaTrainConfig(
        runs=VisaRuns(start=str(directory / "visa_sft"), **names),
        visa=VisaConfig(num_generations=2),
        loop=loop_config(),
        pool=8,
        evaluation_rows=4,
    )
    return dataclasses.replace(config, **changes)


def moc_config(directory: Path, **changes) -> MocTrainConfig:
    """A MOC run on the chain's parts."""
    config = MocTrainConfig(
        runs=MocRuns(
            start=str(directory / "moc_sft"),
            rewards=(str(directory / "reward_helpful"), str(directory / "reward_warm")),
        ),
        moc=MocConfig(preferences=PREFERENCES, num_generations=2, max_completion_length=25),
        loop=loop_config(),
        preference_encoding="prefix",
        questions=8,
        normalizer_samples=8,
        evaluation_questions=2,
    )
    return dataclasses.replace(config, **changes)


def train(config, workdir: Path) -> None:
    """What `visa-jax train` does."""
    claim_workdir(str(workdir), to_config_dict(config))
    train_run(open_parts(config), workdir)


def real_model(directory: Path, tokenizer=None, **changes) -> Path:
    """A random Hugging Face model of Llama's family, with more rows in its embedding than its tokenizer has words."""
    tokenizer = tokenizer or make_testbed_tokenizer()
    sizes = dict(width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=24, max_length=128)
    config = DecoderConfig(**{"vocab_size": len(tokenizer) + 5, **sizes, **changes})
    params = make_decoder(config)[1](jax.random.key(7))
    save_pretrained(directory, params, config, tokenizer)
    return directory


def page(file: Path, config) -> str:
    """A page that holds a typed config as it is."""
    file.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\n"
        "def tuples(x):\n"
        "    if isinstance(x, dict):\n        return {key: tuples(value) for key, value in x.items()}\n"
        "    return tuple(map(tuples, x)) if isinstance(x, list) else x\n\n\n"
        f"def get_config(arg=None):\n    return ConfigDict(tuples(json.loads({to_json(config)!r})))\n"
    )
    return str(file)


def build_chain(directory: Path) -> Path:
    """Every run that the two methods stand on, and one run of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "ROWS", 8)
        for name, (role, changes) in SUPERVISED.items():
            fit = FitConfig(steps=2, batch_size=4)
            role_config = RoleConfig(role=role, rows=8, trunk=TRUNK, fit=fit, **changes)
            needs_base = role in ("visa_sft", "moc_sft", "reward_model")
            config = SuperviseConfig(role=role_config, start=str(directory / "base") if needs_base else "")
            source = make_source(config.data)
            supervise(config, directory / name, source, open_start(config, source))
    train(visa_config(directory), directory / "visa")
    train(moc_config(directory), directory / "moc")
    return directory
