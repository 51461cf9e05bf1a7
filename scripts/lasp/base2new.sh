#!/usr/bin/env bash
# LASP, base-to-new generalisation (scripts/lib.sh says what it reads; --help prints it).
TRAINER=LASP
CFG="${CFG:-vit_b16_ep50}"
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
base2new "$@"
