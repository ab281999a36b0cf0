#!/usr/bin/env bash
# One run as a JobSet on GKE's TPU node pools: all pods are started again when one fails.
#
#   NAME=visa IMAGE=REGION-docker.pkg.dev/PROJECT/visa-jax ACCELERATOR=tpu-v5-lite-podslice TOPOLOGY=4x4 HOSTS=4 CHIPS=4 CLAIM=runs \
#     bash launch/gke_jobset.sh visa-jax train --config=... --workdir=/runs/visa
#   RESTARTS=10       how often before giving up
#   DRY_RUN=1         print the JobSet instead of `kubectl apply`
set -euo pipefail
[ $# -ge 1 ] || { sed -n 2,7p "$0" >&2; exit 2; }
: "${NAME:?}" "${IMAGE:?}" "${ACCELERATOR:?}" "${TOPOLOGY:?}" "${HOSTS:?}" "${CHIPS:?}" "${CLAIM:?}"

quoted() { printf '%s\n' "$@" | sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/"&"/' | paste -sd, -; }

jobset() {
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
spec:
  failurePolicy:
    maxRestarts: ${RESTARTS:-10}
    rules:
    - action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: hosts
    replicas: 1
    template:
      spec:
        parallelism: $HOSTS
        completions: $HOSTS
        completionMode: Indexed
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {operator: In, values: [1, 2]}
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 300
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
              cloud.google.com/gke-tpu-topology: "$TOPOLOGY"
            containers:
            - name: visa-jax
              image: $IMAGE
              command: [$(quoted "$@")]
              env:
              - {name: VISA_JAX_COORDINATOR, value: auto}
              resources:
                limits: {google.com/tpu: $CHIPS}
              volumeMounts:
              - {name: runs, mountPath: /runs}
            volumes:
            - name: runs
              persistentVolumeClaim: {claimName: $CLAIM}
YAML
}

if [ -n "${DRY_RUN:-}" ]; then jobset "$@"; else jobset "$@" | kubectl apply -f -; fi
