# Sourced by the reproduce scripts of real data: trains parts of a page, one workdir each, and skips finished ones.
#
#   real_setup PAGE RUNS DATA [--tiny]      then      real_part supervise base
set -euo pipefail

real_setup() {
  source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" || exit 1
  PAGE="$1" RUNS="$2" DATA="$3" TINY="" SECONDS=0
  [ "${4:-}" = "" ] || [ "$4" = "--tiny" ] || { echo "unknown argument $4 (known: --tiny)" >&2; exit 2; }
  [ "${4:-}" = "" ] || TINY=",tiny"
  [ "${SCALE:-}" = "" ] || TINY="$TINY,scale=$SCALE"
  case "$DATA" in *[,=]*) echo "$DATA: a directory without , and = in its name" >&2; exit 2 ;; esac
  export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
}

# real_part COMMAND PART [ARGUMENT [NAME]]: `visa-jax COMMAND` of the page's PART into RUNS/NAME
real_part() {
  local workdir="$RUNS/${4:-$2}"
  if [ -f "$workdir/final.json" ]; then echo "$workdir is finished" >&2; return 0; fi
  python -m visa_jax.cli.main "$1" --workdir="$workdir" \
    --config="configs/$PAGE.py:part=$2,data=$DATA,runs=$RUNS$TINY${3:+,$3}"
}

# real_pair "ARGUMENTS" "ARGUMENTS": two real_part side by side, one core each; fails if either does
real_pair() {
  local flags="${XLA_FLAGS:-} --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" first second
  (export XLA_FLAGS="$flags"; real_part $1) & first=$!
  (export XLA_FLAGS="$flags"; real_part $2) & second=$!
  wait "$first" && wait "$second"
}

# real_samples METHOD FILE: ten samples as they are
real_samples() {
  python - "$1" "$2" <<'PYTHON'
import json, sys
print(f"\nSamples of {sys.argv[1]}")
for sample in json.load(open(sys.argv[2], encoding="utf-8")):
    shown = [(name, sample[name]) for name in ("prompt", "source", "target", "preference", "completion") if name in sample]
    print("\n".join(f"  {name:<11} {value}" for name, value in shown), end="\n\n")
PYTHON
}
