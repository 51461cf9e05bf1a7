#!/usr/bin/env bash
# ZeroshotCLIP, compositional zero-shot learning (scripts/lib.sh says what it reads; --help prints it).
TRAINER="${TRAINER:-ZeroshotCLIP}"
CFG="${CFG:-vit_b16}"
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
czsl "$@"
