#!/usr/bin/env bash
# Stands in for CoOp's script of that name. base2new.sh does all seeds, both halves and the table.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
arguments 2 "DATASET SEED" "$@"
one CoCoOp "$1" vit_b16_c4_ep10_batch1_ctxv1 "$2" "base2new/train_base/$1/shots_16/CoCoOp/vit_b16_c4_ep10_batch1_ctxv1/seed$2" \
    DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base
