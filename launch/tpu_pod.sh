#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU slice; started again from its newest checkpoint when it is pre-empted or a host fails.
#
#   TPU=my-slice ZONE=us-central1-a bash launch/tpu_pod.sh visa-jax train --config=... --workdir=/shared/runs/visa
#   REPO=visa_jax     directory of the checkout on the hosts (default)
#   RESTARTS=10       how often before giving up
#   DRY_RUN=1         print the command instead
set -uo pipefail
[ $# -ge 1 ] && [ -n "${TPU:-}" ] && [ -n "${ZONE:-}" ] || { sed -n 2,7p "$0" >&2; exit 2; }
limit="${RESTARTS:-10}"
words="$(printf ' %q' "$@")"
remote="cd ${REPO:-visa_jax} && source launch/setup.sh && VISA_JAX_COORDINATOR=auto exec$words"
command=(gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$remote")
if [ -n "${DRY_RUN:-}" ]; then printf '%s\n' "${command[*]}"; exit 0; fi

for ((attempt = 0; ; attempt++)); do
  "${command[@]}"
  code=$?
  case "$code" in 0 | 1 | 2 | 130) exit "$code" ;; esac # done, or nothing that a restart would cure
  [ "$attempt" -lt "$limit" ] || { echo "tpu_pod: ended with $code; given up after $limit restarts" >&2; exit "$code"; }
  echo "tpu_pod: ended with $code; started again ($((attempt + 1)) of $limit)" >&2
done
