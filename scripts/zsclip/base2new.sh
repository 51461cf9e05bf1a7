#!/usr/bin/env bash
# ZeroshotCLIP, base-to-new generalisation (scripts/lib.sh says what it reads; --help prints it).
TRAINER="${TRAINER:-ZeroshotCLIP}"
CFG="${CFG:-vit_b16}"
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
base2new "$@"
