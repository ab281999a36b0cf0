"""Train VISA, MOC or a baseline. The same command goes on where an interrupted run stopped.

visa-jax train --config=configs/visa.py:tiny --workdir=runs/visa --config.optimizer.learning_rate=1e-5
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from visa_jax.cli.flags import define_config, define_workdir
from visa_jax.cli.main import run
from visa_jax.config import UserError, config_differences, load_config, save_config


def define_flags(values: flags.FlagValues) -> None:
    define_config(values)
    define_workdir(values, "directory of the run; one that holds a run is gone on with")


def main(values: flags.FlagValues, positional: list[str]) -> int:
    open_run(values.workdir, values.config)
    return 0


def open_run(workdir: str, config: ConfigDict) -> None:
    """Keep `config` in `workdir`, or, where a run lies there, make sure that it was made with the same config."""
    if (Path(workdir) / "config.json").is_file():
        differences = config_differences(load_config(workdir), config)
        if differences:
            raise UserError(f"{workdir}: holds a run with another config ({'; '.join(differences)}); use a new workdir")
    else:
        save_config(workdir, config)


if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]]))
