#!/usr/bin/env bash
# Zero-shot CLIP, CoOp, CoCoOp and MoCoOp, base-to-new on the embedded benchmark with 8 shots; ends with the tables of all.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export OUTPUT="${OUTPUT:-output/demo}" SEEDS="${SEEDS:-1}" PYTHON="${PYTHON:-python}"
mkdir -p "$OUTPUT"

run() {
    local log="$OUTPUT/$1.txt"
    echo "$1: scripts/$1/base2new.sh ${*:2} > $log"
    bash "$HERE/$1/base2new.sh" "${@:2}" >"$log" || { tail -n 5 "$log" >&2; return 1; }
}

run zsclip icons_rare
run coop icons_rare 8
run cocoop icons_rare 8
run mocoop icons_rare 8
PYTHONPATH="$HERE/.." "$PYTHON" -m benchmark table "$OUTPUT"
