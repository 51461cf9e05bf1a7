# What the scripts share: the interpreter, and the environment as options of `python -m benchmark protocol`.
# shellcheck shell=bash disable=SC2046,SC2086  # SEEDS and BESIDE are lists of words

set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python
    if [[ -z "${VIRTUAL_ENV:-}" && -x "$HERE/.venv/bin/python" ]]; then PYTHON="$HERE/.venv/bin/python"; fi
fi

MOCOOP="$HERE/mocoop" # a clone's
if [[ ! -d "$MOCOOP" ]]; then MOCOOP="$(dirname "$HERE")"; fi # where pip put it, these are in its folder home

# protocol NAME TRAINER [ARGUMENT ...]: benchmark/protocols/ knows them; what is not set has its default there.
protocol() {
    exec "$PYTHON" "$MOCOOP" benchmark protocol "$@" --script "$0" ${DATA:+--root "$DATA"} ${SEEDS:+--seeds $SEEDS} \
        ${CFG:+--config "$CFG"} ${BACKBONE:+--backbone "$BACKBONE"} ${OUTPUT:+--output "$OUTPUT"} \
        ${DEVICE:+--device "$DEVICE"} ${BESIDE:+--beside $BESIDE}
}

# one TRAINER DATASET CFG SEED FOLDER [ARGUMENT ...]: a single run of train.py, into a folder laid out as CoOp's.
one() {
    case "${DEVICE:-cuda}" in
        cpu | cuda) ;;
        *) echo "error: DEVICE is \"$DEVICE\": give cpu or cuda" >&2 && exit 1 ;;
    esac
    "$PYTHON" "$MOCOOP" train --root "${DATA:-data}" --seed "$4" --trainer "$1" \
        --dataset-config-file "$HERE/configs/datasets/$2.yaml" --config-file "$HERE/configs/trainers/$1/$3.yaml" \
        --output-dir "${OUTPUT:-output}/$5" ${BACKBONE:+--backbone "$BACKBONE"} "${@:6}" \
        $([[ "${DEVICE:-}" != cpu ]] || echo USE_CUDA False)
}

# arguments NUMBER "NAMES" "$@": tell the usage and end, unless there are that many.
arguments() {
    local number="$1" names="$2" status=2
    shift 2
    if [[ $# -eq $number && "${1:-}" != --help ]]; then return; fi
    if [[ "${1:-}" == --help ]]; then status=0; else exec 1>&2; fi
    echo "Usage: bash $0 $names"
    echo "DATA, BACKBONE, OUTPUT, DEVICE (and SEEDS, where no seed is given) come from the environment."
    exit $status
}
