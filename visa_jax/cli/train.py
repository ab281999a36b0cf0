"""Train VISA, MOC or a baseline. The same command goes on where an interrupted run stopped.

visa-jax train --config=configs/visa.py:tiny --workdir=runs/visa --config.loop.optimizer.learning_rate=1e-5
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from visa_jax.checkpoint import latest_step
from visa_jax.cli.configs import MocTrainConfig, VisaTrainConfig
from visa_jax.cli.experiment import VisaParts, make_moc, make_visa, open_moc, open_visa
from visa_jax.cli.flags import define_config, define_config_change, define_workdir
from visa_jax.cli.judging import NORMALIZER, load_normalizer, make_moc_monitor, make_visa_monitor, save_normalizer
from visa_jax.cli.main import run
from visa_jax.cli.processes import together
from visa_jax.cli.runs import claim_base, claim_workdir, save_run
from visa_jax.config import UserError, from_config_dict, save_config, to_config_dict
from visa_jax.data.tokenizer import decode_batch
from visa_jax.parallel import make_mesh, multihost
from visa_jax.training import fishwood
from visa_jax.training.fishwood import FishWoodConfig
from visa_jax.training.loop import Experiment, is_meshed, start
from visa_jax.training.progress import Progress
from visa_jax.training.workdir import train_in
from visa_jax.types import Params, Scored

CONFIGS = {"visa": VisaTrainConfig, "moc": MocTrainConfig, "fishwood": FishWoodConfig}
SHOWN_SAMPLES = 10


def define_flags(values: flags.FlagValues) -> None:
    define_config(values)
    define_workdir(values, "directory of the run; one that holds a run is gone on with")
    define_config_change(values)


def main(values: flags.FlagValues, positional: list[str]) -> int:
    return together("train", lambda: train_command(values))


def train_command(values: flags.FlagValues) -> int:
    config = read_config(values.config)
    if isinstance(config, FishWoodConfig):
        return train_fishwood(config, values.workdir)
    parts = open_parts(config)  # before the workdir is claimed: a start that fails leaves nothing behind
    claim_workdir(values.workdir, to_config_dict(config), allow_change=values.allow_config_change)
    if multihost.is_primary():
        for note in parts.notes:
            print(f"note: {note}", file=sys.stderr)
    train_run(parts, values.workdir)
    if not multihost.is_primary():
        return 0
    print(json.dumps({"workdir": values.workdir, **json.loads((Path(values.workdir) / "final.json").read_text())}))
    return 0


def complete_config(config: ConfigDict) -> ConfigDict:
    """The page with every field that it leaves at its default, so that any of them can be changed by a flag."""
    return to_config_dict(read_config(config))


def read_config(config: ConfigDict) -> VisaTrainConfig | MocTrainConfig | FishWoodConfig:
    """The typed config of a train page; ``method`` says which."""
    method = config.get("method", "")
    if method not in CONFIGS:
        raise UserError(f"config.method: {method!r} is not one of {', '.join(CONFIGS)}")
    return from_config_dict(CONFIGS[method], config)


def train_fishwood(config: FishWoodConfig, workdir: str) -> int:
    """The toy has no models to open and no checkpoint: it takes seconds."""
    with Progress(Path(workdir).name, config.steps) as progress:
        told = fishwood.run(config, lambda step, metrics: progress.update(step, reward=metrics["reward"]))
    save_config(workdir, to_config_dict(config))
    (Path(workdir) / "fishwood.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({"workdir": workdir, **told["row"]}))
    return 0


def open_parts(config: VisaTrainConfig | MocTrainConfig) -> Any:
    """Open the runs that the config names, their decoders on the mesh that it names."""
    mesh = make_mesh(config.loop.mesh) if is_meshed(config.loop.mesh) else None
    return (open_visa if config.method == "visa" else open_moc)(config, mesh)


def train_run(parts: Any, workdir: str | Path, title: str | None = None) -> Params:
    """Train (or go on with) the run of ``parts`` in ``workdir``; returns what was trained of the policy's decoder."""
    workdir, config = Path(workdir), parts.config
    if config.policy.lora:
        claim_base(workdir, to_config_dict(config))
    is_visa = isinstance(parts, VisaParts)
    if is_visa:
        started = make_visa(parts)
    else:  # a run that goes on has the scale that it began with
        scaled = latest_step(workdir) is not None and (workdir / NORMALIZER).is_file()
        started = make_moc(parts, load_normalizer(workdir) if scaled else None)
        if not scaled and multihost.is_primary():
            save_normalizer(workdir, started.method_state.normalizer)
    method_state = started.method_state
    monitor = make_visa_monitor(parts) if is_visa else make_moc_monitor(parts, method_state.normalizer)
    experiment = started.experiment._replace(evaluate_fn=lambda params: monitor(params["decoder"]))
    state = start(experiment, config.loop, started.params, method_state, jax.random.key(config.seed))
    state = train_in(
        workdir,
        experiment,
        config.loop,
        state,
        started.reference,
        title=title,
        samples_fn=lambda scored: sample_rows(experiment, parts, scored),
        profile_steps=config.profile.steps,
    )
    learned, step = state.params["decoder"], int(state.step)
    save_run(workdir, to_config_dict(config), parts.source.tokenizer, learned, step, parts.policy.huggingface)
    return learned


def sample_rows(experiment: Experiment, parts: Any, scored: Scored) -> list[dict]:
    """The first completions of a step as texts with their rewards."""
    rollout, tokenizer = scored.rollout, parts.source.tokenizer
    count = min(SHOWN_SAMPLES, rollout.completion_BT.shape[0] // experiment.group_size)
    rows = np.arange(count) * experiment.group_size
    prompts = decode_batch(tokenizer, np.asarray(rollout.prompts.prompt_NL)[:count])
    texts = decode_batch(
        tokenizer, np.asarray(rollout.completion_BT)[rows], np.asarray(rollout.mask_BT)[rows], experiment.end_id
    )
    reward_BK = np.asarray(scored.reward_BK)[rows]
    return [
        {
            "prompt": prompts[i],
            "completion": texts[i],
            "rewards": {r.name: float(x) for r, x in zip(experiment.rewards, reward_BK[i], strict=True)},
        }
        for i in range(count)
    ]


if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]]))
