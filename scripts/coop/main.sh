#!/usr/bin/env bash
# Stands in for CoOp's script of that name. few_shot.sh knows config and epochs by itself.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
arguments 6 "DATASET CFG CTP NCTX SHOTS CSC      (CTP: end, middle or front; CSC: True or False)" "$@"
for seed in ${SEEDS:-1 2 3}; do
    one CoOp "$1" "$2" "$seed" "$1/CoOp/$2_$5shots/nctx$4_csc$6_ctp$3/seed$seed" DATASET.NUM_SHOTS "$5" \
        TRAINER.COOP.N_CTX "$4" TRAINER.COOP.CSC "$6" TRAINER.COOP.CLASS_TOKEN_POSITION "$3"
done
