#!/usr/bin/env bash
# LAMM: base-to-new generalisation. --help says what it takes.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
protocol base2new LAMM "$@"
