#!/usr/bin/env bash
# Turnway, coturn and a bare forwarder at the same work, in one run. Wants two CPUs and nothing else
# on them.
#
#   benches/compare.sh rows 1 2 5     some rows of the table of targets
#   benches/compare.sh all            all rows: an hour and more
#   benches/compare.sh grid           all combinations of size, allocations, direction and burst
#   benches/compare.sh --quick        everything for a moment: shows that it works
#
# COTURN and COTURN_FLAGS name another coturn and what it wants; --pairs, --seconds and --cpus are
# explained by `benches/compare.sh --help`. Missed targets are printed and are no failure; payloads
# that were changed or misrouted, and a server that does not answer, are.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v "${COTURN:-turnserver}" >/dev/null || tests/install-deps.sh

# As releases are built, unless the figures mean nothing anyway.
if [[ " $* " != *" --quick "* ]]; then
  export CARGO_PROFILE_BENCH_LTO=thin CARGO_PROFILE_BENCH_CODEGEN_UNITS=4
fi
exec cargo bench --locked --quiet --bench compare -- "$@"
