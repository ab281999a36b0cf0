#!/usr/bin/env bash
# The main job on a fresh machine: VISA and MOC trained, evaluated and compared on the embedded testbed.
#
#   bash launch/quickstart.sh            about 10 minutes on 2 cores
#   bash launch/quickstart.sh --fast     3 minutes
#   bash launch/quickstart.sh --full     one more baseline (-MSE alone)
#   further flags: --seed=N --workdir=runs/quickstart
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" || exit 1
exec python -m visa_jax.cli.main quickstart "$@"
