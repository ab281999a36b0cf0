#!/usr/bin/env bash
# VISA on real texts (docs/real_data.md): ValueBench answers, values as ValueEval'23 labels them. Two cores, less than 30 minutes.
#
#   bash launch/reproduce_real_values.sh DATA             DATA/valuebench and DATA/valueeval23; runs in runs/real_values
#   bash launch/reproduce_real_values.sh DATA --tiny      200 rows, 3 steps: only shows that every part runs
#   RUNS=runs/other SCALE=2 bash launch/reproduce_real_values.sh DATA          other directory of runs, twice the steps
[ $# -ge 1 ] || { sed -n 2,6p "$0" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/real_parts.sh
real_setup real_values "${RUNS:-runs/real_values}" "$@"

real_part supervise base
real_pair "supervise detector" "supervise analyzer"
real_part supervise visa_sft
real_part train visa
python -m visa_jax.cli.main evaluate --workdir="$RUNS/visa"
real_samples VISA "$RUNS/visa/samples/visa.json"
echo "reproduce_real_values: $SECONDS s; report: $RUNS/visa/report.html"
