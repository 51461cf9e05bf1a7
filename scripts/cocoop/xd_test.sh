#!/usr/bin/env bash
# Stands in for CoOp's script of that name. cross_dataset.sh does all seeds and data sets.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
arguments 2 "DATASET SEED" "$@"
one CoCoOp "$1" vit_b16_c4_ep10_batch1_ctxv1 "$2" "evaluation/CoCoOp/vit_b16_c4_ep10_batch1_ctxv1_16shots/$1/seed$2" --eval-only \
    --model-dir "${OUTPUT:-output}/imagenet/CoCoOp/vit_b16_c4_ep10_batch1_ctxv1_16shots/seed$2" DATASET.NUM_SHOTS 16
