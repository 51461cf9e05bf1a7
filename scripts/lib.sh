# What the scripts share: the interpreter, and the environment as options of `python -m benchmark protocol`.
# shellcheck shell=bash disable=SC2086  # SEEDS and BESIDE are lists of words

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
