#!/usr/bin/env bash
# The main job on a fresh machine: VISA and MOC trained, evaluated and compared on the embedded testbed.
#
#   bash launch/quickstart.sh            8 1/2 minutes on 2 cores, 1 of them installing (LOG.md)
#   bash launch/quickstart.sh --fast     a twelfth of every stage: 130 s, half a minute more to install
#   bash launch/quickstart.sh --full     one more baseline (-MSE alone)
#   further flags: --seed=N --workdir=runs/quickstart
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" || exit 1
exec python -m visa_jax.cli.main quickstart "$@"
