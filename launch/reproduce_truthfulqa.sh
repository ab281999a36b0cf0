#!/usr/bin/env bash
# MOC on real labels (docs/real_data.md): truthful against informative answers of TruthfulQA. One core, 21 minutes.
#
#   bash launch/reproduce_truthfulqa.sh DATA             DATA/truthfulqa; runs in runs/real_truthfulqa
#   bash launch/reproduce_truthfulqa.sh DATA --tiny      200 rows, 3 steps: only shows that every part runs
#   RUNS=runs/other SCALE=2 bash launch/reproduce_truthfulqa.sh DATA          other directory of runs, twice the steps
[ $# -ge 1 ] || { sed -n 2,6p "$0" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/real_parts.sh
real_setup real_truthfulqa "${RUNS:-runs/real_truthfulqa}" "$@"

real_part supervise base
real_pair "supervise reward objective=0 reward_truthful" "supervise reward objective=1 reward_informative"
real_part supervise moc_sft
real_part train moc
python -m visa_jax.cli.main evaluate --workdir="$RUNS/moc"
real_samples MOC "$RUNS/moc/samples/moc.json"
echo "reproduce_truthfulqa: $SECONDS s; report: $RUNS/moc/report.html"
