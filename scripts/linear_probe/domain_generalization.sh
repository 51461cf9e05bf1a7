#!/usr/bin/env bash
# LinearProbe: domain generalisation. --help says what it takes.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol domain_generalization LinearProbe "$@"
