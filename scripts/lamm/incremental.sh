#!/usr/bin/env bash
# LAMM, with CoOp beside it: continual learning. --help says what it takes.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
if [[ -z "${TRAINER:-}" ]]; then BESIDE="${BESIDE-CoOp/vit_b16_ep50_ctxv1}"; fi
protocol incremental "${TRAINER:-LAMM}" "$@"
