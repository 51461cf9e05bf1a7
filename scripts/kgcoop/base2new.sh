#!/usr/bin/env bash
# KgCoOp, base-to-new generalisation (scripts/lib.sh says what it reads; --help prints it).
TRAINER=KgCoOp
CFG="${CFG:-vit_b16_ep100_ctxv1}"
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
base2new "$@"
