#!/usr/bin/env bash
# ProGrad, base-to-new generalisation (scripts/lib.sh says what it reads; --help prints it).
TRAINER=ProGrad
CFG="${CFG:-vit_b16_ep50_ctxv1}"
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
base2new "$@"
