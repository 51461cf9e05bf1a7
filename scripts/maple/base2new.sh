#!/usr/bin/env bash
# MaPLe, base-to-new generalisation (scripts/lib.sh says what it reads; --help prints it).
TRAINER=MaPLe
CFG="${CFG:-vit_b16_c2_ep5_batch4_2ctx}"
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
base2new "$@"
