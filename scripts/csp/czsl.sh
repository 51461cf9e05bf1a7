#!/usr/bin/env bash
# CSP: compositional zero-shot learning. --help says what it takes.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol czsl CSP "$@"
