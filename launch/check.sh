#!/usr/bin/env bash
# The whole gate, on a laptop as in CI: lint, format, import contract, tests. Arguments go to pytest:
#
#   bash launch/check.sh                   everything
#   bash launch/check.sh tests/solvers     the tests of one folder
set -euo pipefail
SECONDS=0
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" || exit 1
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Two workers, each with one thread: less contention than one process with two threads.
export HF_HUB_OFFLINE=1 JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
export XLA_FLAGS="${XLA_FLAGS:---xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1}"
export TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1

# Every part runs, so that one call shows everything that is wrong.
failed=""
attempt() { "$@" || failed="$failed ${1##*/}"; }

for script in launch/*.sh launch/*.sbatch .ci/run; do attempt bash -n "$script"; done
attempt ruff check .
attempt ruff format --check .
attempt lint-imports --no-cache --no-logo
echo "lint and contract: ${SECONDS} s"

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
python -m pytest -q -n 2 --dist worksteal --durations=10 "$@" | tee "$log" || failed="$failed pytest"

echo "check.sh: ${SECONDS} s in all${failed:+; FAILED:$failed}"
tail -n 1 "$log" # pytest's count again: the last line says how the tests ended
[ -z "$failed" ]
