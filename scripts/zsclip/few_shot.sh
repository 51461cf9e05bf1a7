#!/usr/bin/env bash
# ZeroshotCLIP, or TRAINER=ZeroshotCLIP2: few-shot classification. --help says what it takes.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol few_shot "${TRAINER:-ZeroshotCLIP}" "$@"
