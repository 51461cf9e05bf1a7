#!/usr/bin/env bash
# PromptSRC, base-to-new generalisation (scripts/lib.sh says what it reads; --help prints it).
TRAINER=PromptSRC
CFG="${CFG:-vit_b16_c2_ep20_batch4_4+4ctx}"
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
base2new "$@"
