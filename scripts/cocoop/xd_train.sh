#!/usr/bin/env bash
# Stands in for CoOp's script of that name. cross_dataset.sh does all seeds and data sets.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
arguments 1 "SEED" "$@"
one CoCoOp imagenet vit_b16_c4_ep10_batch1_ctxv1 "$1" "imagenet/CoCoOp/vit_b16_c4_ep10_batch1_ctxv1_16shots/seed$1" DATASET.NUM_SHOTS 16
