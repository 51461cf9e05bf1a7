#!/usr/bin/env bash
# ZeroshotCLIP, or TRAINER=ZeroshotCLIP2: cross-dataset transfer. --help says what it takes.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol cross_dataset "${TRAINER:-ZeroshotCLIP}" "$@"
