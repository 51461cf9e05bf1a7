#!/usr/bin/env bash
# Zero-shot CLIP, CoOp and MoCoOp, base-to-new on Caltech101 with 16 shots; ends with the table of all three.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export OUTPUT="${OUTPUT:-output/demo}"
bash "$HERE/zsclip/base2new.sh" caltech101
bash "$HERE/coop/base2new.sh" caltech101 16
bash "$HERE/mocoop/base2new.sh" caltech101 16
PYTHONPATH="$HERE/.." "${PYTHON:-python}" -m benchmark.base2new "$OUTPUT"
