#!/usr/bin/env bash
# LAMM, continual learning, beside CoOp trained in the same way (scripts/lib.sh says what it reads; --help prints it).
if [[ -z "${TRAINER:-}" ]]; then BESIDE="${BESIDE-CoOp/vit_b16_ep50_ctxv1}"; fi
TRAINER="${TRAINER:-LAMM}"
CFG="${CFG:-vit_b16_ep50}"
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
incremental "$@"
