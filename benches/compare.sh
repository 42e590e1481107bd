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

# Whoever is killed leaves its network namespaces behind: they are named after the process that made
# them, and go when that is no more.
sweep() {
  local name
  for name in $(ip netns list 2>/dev/null | cut -d' ' -f1); do
    if [[ $name =~ ^tw-(generator|relay)-([0-9]+)-[0-9]+$ && ! -d /proc/${BASH_REMATCH[2]} ]]; then
      ip netns delete "$name" || true
    fi
  done
}

# In a process group of its own, so that everything of it can be ended.
set -m
cargo bench --locked --quiet --bench compare -- "$@" &
bench=$!
end() {
  kill -KILL -- "-$bench" 2>/dev/null || true
  wait "$bench" 2>/dev/null || true
  exit 130
}
trap sweep EXIT
trap end INT TERM HUP
sweep
wait "$bench"
