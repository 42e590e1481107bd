#!/usr/bin/env bash
# Installs what the tests need beyond Rust, git and a C compiler, on Debian and its children.
# Asks the package manager only for what is missing; a second run changes nothing.
set -euo pipefail

packages=(
  coturn       # turnutils_uclient, turnutils_peer: the clients our relay is measured with
  faketime     # a daemon's clock that a test puts forward
  chromium     # a browser that relays
  iproute2     # ip: network namespaces, addresses and routes of the tests
  ethtool      # what an interface can do, for the network tests
  nftables     # a firewall that the kernel's data path must not bypass
  clang        # builds the kernel's program anew, to be compared with the committed object
  llvm         # strips what clang built
  procps       # kill, which the unit's ExecReload calls
  systemd      # systemd-analyze, systemd-sysusers, systemd-tmpfiles: proof of systemd/
  debootstrap  # the plain Debian root in which tests/dockerfile.sh proves the Dockerfile
  util-linux   # unshare, nsenter, setpriv
  openssl      # a second opinion on digests, keys, TLS and DTLS
)

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [ "$state" = "ii " ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "install-deps: everything is there"
  exit 0
fi
echo "install-deps: installing ${missing[*]}"

# A package may start its daemon when it is installed, and coturn's would take our port. Refuse
# that for as long as the installation runs, unless the machine has its own answer already.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'as_root rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
fi

as_root apt-get update -q
as_root env DEBIAN_FRONTEND=noninteractive \
  apt-get install -q -y --no-install-recommends "${missing[@]}"

# Only its test clients are wanted: where systemd runs, the daemon must not come up at next boot.
if [[ " ${missing[*]} " == *" coturn "* ]] && [ -d /run/systemd/system ]; then
  as_root systemctl disable --now coturn.service
fi
