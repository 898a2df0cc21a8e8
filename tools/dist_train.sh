#!/usr/bin/env bash
# Train on several GPUs of one or more machines (without a GPU: several processes over gloo).
#   bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and the same PORT on each. Two jobs on a machine need two PORTs.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,4s/^# //p' "$0" >&2; exit 2; fi
CONFIG=$1; GPUS=$2; shift 2
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" --nproc-per-node="$GPUS" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-${MASTER_PORT:-29500}}" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
