#!/usr/bin/env bash
# CoOp, compositional zero-shot learning (scripts/lib.sh says what it reads; --help prints it).
TRAINER=CoOp
CFG="${CFG:-vit_b16_ep50}"
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
czsl "$@"
