#!/usr/bin/env bash
# The peers' own environments, benchmarks/peers/.venv-tunix and .venv-trl: about two minutes and 3 GiB each.
#
#     bash benchmarks/peers/install.sh [tunix] [trl]
#
# None of this is a dependency of visa_jax. torch comes first and by its exact version: left to trl, pip may choose the
# CUDA build with gigabytes of libraries that a CPU never uses.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python="${PYTHON:-python3}"

install() {  # name, then one argument per pip call
    local environment=".venv-$1"
    shift
    [[ -x "$environment/bin/python" ]] || "$python" -m venv "$environment"
    for packages in "$@"; do
        "$environment/bin/pip" install --quiet $packages
    done
}

for peer in "${@:-tunix trl}"; do
    for name in $peer; do
        case "$name" in
            tunix) install tunix "google-tunix==0.1.7 jax==0.10.2 flax==0.12.8" ;;
            trl) install trl "torch==2.13.0" "trl==1.16.0" ;;
            *) echo "unknown peer $name: tunix or trl" >&2; exit 2 ;;
        esac
    done
done
