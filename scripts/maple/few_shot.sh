#!/usr/bin/env bash
# MaPLe: few-shot classification. --help says what it takes.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol few_shot MaPLe "$@"
