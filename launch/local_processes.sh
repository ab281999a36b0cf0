#!/usr/bin/env bash
# One run in several processes on this machine. If one dies, all are ended and started again.
#
#   bash launch/local_processes.sh 2 -- visa-jax train --config=configs/visa.py:tiny --workdir=runs/visa --config.loop.mesh.fsdp=-1
#   CPU_DEVICES=4     devices that each process has on a CPU (default 1)
#   RESTARTS=10       how often all are started again before giving up
#   DRY_RUN=1         print the commands instead
#
# A code of 1, 2 or 130 is final (a mistake of the user or a full disk, a wrong command line, Ctrl-C): it would only come again.
set -uom pipefail # m: each process in a group of its own, or the terminal's Ctrl-C would reach it beside ours
[ $# -ge 3 ] && [ "$2" = "--" ] && [ "$1" -ge 1 ] 2>/dev/null || { sed -n 2,9p "$0" >&2; exit 2; }
count="$1"
shift 2
devices="${CPU_DEVICES:-1}" limit="${RESTARTS:-10}"
pids=()

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

settings() { # of process $1 with the coordinator's port $2
  echo "VISA_JAX_COORDINATOR=127.0.0.1:$2 VISA_JAX_PROCESSES=$count VISA_JAX_PROCESS=$1 VISA_JAX_CPU_DEVICES=$devices"
}

if [ -n "${DRY_RUN:-}" ]; then
  for ((i = 0; i < count; i++)); do echo "$(settings "$i" PORT) $*"; done
  exit 0
fi

asked=""
on_term() { asked=75; kill -TERM "${pids[@]}" 2>/dev/null; }
on_int() { asked=130; kill -INT "${pids[@]}" 2>/dev/null; }
trap on_term TERM HUP
trap on_int INT

for ((attempt = 0; ; attempt++)); do
  port="$(free_port)" || exit 1
  pids=()
  for ((i = 0; i < count; i++)); do
    env $(settings "$i" "$port") "$@" &
    pids+=($!)
  done
  # The first to fail decides; of several that end together a signal says more than the error it caused in the others,
  # but 134 (JAX gives up without its coordinator) is always caused.
  codes=() ended=0 worst=0
  while [ "$ended" -lt "$count" ]; do
    sleep 0.1
    ended=0
    for ((i = 0; i < count; i++)); do
      if [ -z "${codes[i]:-}" ]; then
        kill -0 "${pids[i]}" 2>/dev/null && continue
        wait "${pids[i]}"
        code=$?
        codes[i]=$code
        (( code != 0 && (worst == 0 || worst == 134 || (code != 134 && code > worst)) )) && worst=$code
      fi
      ended=$((ended + 1))
    done
    if [ "$worst" -ne 0 ] && [ "$ended" -lt "$count" ]; then
      # Those that were asked to end are saving; of the others none can go on without the one that is gone.
      if [ "$worst" -eq 75 ] || [ -n "$asked" ]; then sleep 5; else sleep 0.3; fi
      for ((i = 0; i < count; i++)); do
        [ -n "${codes[i]:-}" ] || { kill -KILL "${pids[i]}" 2>/dev/null; }
      done
      wait "${pids[@]}" 2>/dev/null
      break
    fi
  done
  [ "$worst" -eq 0 ] && exit 0
  [ -n "$asked" ] && exit "$asked"
  case "$worst" in 1 | 2 | 130) exit "$worst" ;; esac
  if [ "$attempt" -ge "$limit" ]; then
    echo "local_processes: a process ended with $worst; given up after $limit restarts" >&2
    exit "$worst"
  fi
  echo "local_processes: a process ended with $worst; all are started again ($((attempt + 1)) of $limit)" >&2
done
