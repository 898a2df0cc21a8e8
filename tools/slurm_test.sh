#!/usr/bin/env bash
# Evaluate a checkpoint through Slurm, one task per GPU. The variables are those of slurm_train.sh.
#   bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
set -euo pipefail
if [ $# -lt 4 ]; then sed -n '2,3s/^# //p' "$0" >&2; exit 2; fi
PERVIT_SLURM_TOOL=test.py exec bash "$(dirname "$0")/slurm_train.sh" "$@"
