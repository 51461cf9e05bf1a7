#!/usr/bin/env bash
# CoCoOp, base-to-new generalisation (scripts/lib.sh says what it reads; --help prints it).
TRAINER=CoCoOp
CFG="${CFG:-vit_b16_c4_ep10_batch1_ctxv1}"
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
base2new "$@"
