#!/usr/bin/env bash
# CSP, compositional zero-shot learning (scripts/lib.sh says what it reads; --help prints it).
TRAINER=CSP
CFG="${CFG:-vit_l14}"
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
czsl "$@"
