#!/usr/bin/env bash
# MaPLe: cross-dataset transfer. --help says what it takes.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol cross_dataset MaPLe "$@"
