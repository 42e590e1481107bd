#!/usr/bin/env bash
# Proves the Dockerfile where no image can be pulled: its build stage runs in a copy of the build
# context that .dockerignore leaves, its runtime stage in a plain Debian root of debootstrap, and
# the result is started there as the image's user, in network and process namespaces of its own.
#
# Reads the Dockerfile itself; an instruction it does not know is an error, never skipped.
# Needs root (or sudo) and debootstrap. Keeps everything under target/dockerfile.
set -euo pipefail
shopt -s dotglob

repo=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$repo/target}
work=$target/dockerfile
context=$work/context
root=$work/root

main() {
  mkdir -p "$work"
  trap 'again rm -rf --one-file-system "$root"' EXIT
  build_stage
  again plain_root
  again unshare --net --mount --pid --fork --kill-child bash "$0" start_in_namespaces
  echo "dockerfile: proven"
}

# Continues as root: with one of this script's functions, or with a command that leads to one.
again() {
  if [ "$(type -t "$1")" = function ]; then set -- bash "$0" "$@"; fi
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo env CARGO_TARGET_DIR="$target" "$@"; fi
}

# --- The Dockerfile, one instruction per line: "STAGE KEYWORD arguments" -------------------------

instructions() {
  sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' "$repo/Dockerfile" |
    sed -e ':join' -e '/\\$/{N' -e 's/\\\n[[:space:]]*//' -e 'b join' -e '}' |
    awk '$1 == "FROM" { stage++ } { print stage " " $0 }'
}

stage() {
  instructions | sed -n "s/^$1 //p"
}

# The last `KEYWORD` of the runtime stage, without the keyword.
setting() {
  stage 2 | sed -n "s/^$1 //p" | tail -n 1
}

# A `["json", "array"]` of plain words as words.
words() {
  tr -d '[]",' <<<"$1"
}

fail() {
  echo "dockerfile: $*" >&2
  exit 1
}

# --- Stage 1: the machine's own Rust stands for the Rust image ------------------------------------

build_stage() {
  local keyword arguments
  while read -r keyword arguments; do
    case $keyword in
      FROM) [[ $arguments == rust:*" AS build" ]] || fail "unexpected build image: $arguments" ;;
      WORKDIR) [ "$arguments" = /src ] || fail "WORKDIR is expected to be /src" ;;
      COPY) [ "$arguments" = ". ." ] || fail "unexpected COPY $arguments"
        copy_context ;;
      RUN) echo "dockerfile: build: $arguments"
        (cd "$context" && CARGO_TARGET_DIR=$target sh -ec "$arguments" </dev/null) ;;
      *) fail "unknown instruction in the build stage: $keyword $arguments" ;;
    esac
  done < <(stage 1)
}

copy_context() {
  rm -rf "$context"
  mkdir "$context"
  (cd "$repo" && tar --anchored --no-wildcards-match-slash --exclude-from=.dockerignore -c -- *) |
    tar -x -C "$context"
}

# --- Stage 2: a plain Debian root, as root in its own namespaces ----------------------------------

# The image is `debian:SUITE-slim`. On another Debian release the binary just built needs that
# release's C library, so the root is made of it, and that is said.
plain_root() {
  local image suite host mirror
  image=$(setting FROM)
  [[ $image == debian:*-slim ]] || fail "unexpected runtime image: $image"
  suite=${image#debian:} suite=${suite%-slim}
  host=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}" || true)
  if [ -n "$host" ] && [ "$host" != "$suite" ]; then
    echo "dockerfile: this machine is $host, so the proof is in $host, not in $suite"
    suite=$host
  fi
  if [ ! -e "$work/$suite.tar" ]; then
    echo "dockerfile: making a plain $suite root"
    # Where this machine gets its own packages; without an answer, debootstrap's own place.
    mirror=$(apt-get indextargets --format "\$(CODENAME) \$(REPO_URI)" 2>/dev/null |
      sed -n "s/^$suite //p" | head -n 1)
    rm -rf --one-file-system "$root"
    debootstrap --variant=minbase "$suite" "$root" ${mirror:+"$mirror"} \
      >"$work/debootstrap.log" 2>&1 ||
      { tail -n 20 "$work/debootstrap.log" >&2; fail "debootstrap failed"; }
    tar -C "$root" -cf "$work/$suite.tar.part" .
    mv "$work/$suite.tar.part" "$work/$suite.tar"
  fi
  rm -rf --one-file-system "$root"
  mkdir "$root"
  tar -C "$root" -xf "$work/$suite.tar"
}

start_in_namespaces() {
  mount --make-rprivate /
  mount -t proc proc "$root/proc"
  ip link set lo up
  ip address add 192.0.2.2/32 dev lo

  runtime_stage
  check_version
  check_it_refuses_to_run_open
  check_health
  check_what_it_writes
}

runtime_stage() {
  local keyword arguments from to
  while read -r keyword arguments; do
    case $keyword in
      RUN) echo "dockerfile: runtime: $arguments"
        chroot "$root" sh -ec "$arguments" </dev/null ;;
      COPY) read -r from to <<<"${arguments#--from=build }"
        [[ $arguments == "--from=build /src/target/"* ]] || fail "unexpected COPY $arguments"
        install -D "$target/${from#/src/target/}" "$root$to" ;;
      FROM | USER | EXPOSE | ENTRYPOINT | CMD | HEALTHCHECK) ;; # read where they are needed
      *) fail "unknown instruction in the runtime stage: $keyword $arguments" ;;
    esac
  done < <(stage 2)
}

# Becomes a command as the container would run it: the image's user, no capability, no way to
# gain one. Replaces the calling (sub)shell, so that `$!` is the command and can be signalled.
become_image_user() {
  local user
  user=$(setting USER)
  exec chroot "$root" setpriv --reuid="$user" --regid="$user" --init-groups --no-new-privs \
    --inh-caps=-all --bounding-set=-all --reset-env -- "$@"
}

become_entrypoint() {
  # shellcheck disable=SC2046 # plain words
  become_image_user $(words "$(setting ENTRYPOINT)") "$@"
}

# --- The checks -----------------------------------------------------------------------------------

check_version() {
  local version
  version=$(become_entrypoint --version)
  [[ $version == "turnway "[0-9]* ]] || fail "--version says '$version'"
  echo "dockerfile: $version starts as $(become_image_user id -un)"
}

check_it_refuses_to_run_open() {
  local code=0
  # shellcheck disable=SC2046
  (become_entrypoint $(words "$(setting CMD)") >"$work/refused.log" 2>&1) || code=$?
  [ "$code" -eq 2 ] || { cat "$work/refused.log"; fail "without a config: exit $code, not 2"; }
  echo "dockerfile: without a configuration it refuses to start"
}

check_health() {
  local relay code=0
  configuration
  # shellcheck disable=SC2046
  become_entrypoint $(words "$(setting CMD)") >"$work/relay.log" 2>&1 &
  relay=$!
  await_health || { cat "$work/relay.log"; fail "the health check never succeeded"; }
  echo "dockerfile: the health check succeeds"
  (become_entrypoint status -c /etc/turnway/turnway.toml >"$work/status.log" 2>&1) ||
    { cat "$work/status.log"; fail "the admin socket does not answer"; }
  echo "dockerfile: the admin socket answers"

  kill -TERM "$relay"
  wait "$relay" || code=$?
  [ "$code" -eq 0 ] || { cat "$work/relay.log"; fail "stopped by SIGTERM it exits $code, not 0"; }
  if health; then fail "the health check succeeds without a relay"; fi
  echo "dockerfile: stopped, the health check fails"
}

# Users are added, and kept for the next container, by the image's user.
check_what_it_writes() {
  (become_entrypoint user add alice --generate -c /etc/turnway/turnway.toml >/dev/null) ||
    fail "no user can be added"
  [ -s "$root/var/lib/turnway/turnway.db" ] || fail "there is no database in /var/lib/turnway"
  echo "dockerfile: the database can be written"
}

configuration() {
  mkdir -p "$root/etc/turnway"
  cat >"$root/etc/turnway/turnway.toml" <<TOML
realm = "example.org"

[[listen]]
transport = "udp"
address = "0.0.0.0:3478"

[relay]
addresses = ["192.0.2.2"]

[auth]
rest_secrets = ["$(openssl rand -hex 32)"]
database = "sqlite:/var/lib/turnway/turnway.db"

[admin]
listen = "unix:/run/turnway/admin.sock"

[metrics]
listen = "127.0.0.1:9641"
TOML
}

# The HEALTHCHECK's own command, run as Docker runs it.
health() {
  local check
  check=$(setting HEALTHCHECK)
  [[ $check == *" CMD "* ]] || fail "the HEALTHCHECK has no CMD"
  (become_image_user /bin/sh -c "${check#* CMD }" 2>/dev/null)
}

await_health() {
  local deadline=$((SECONDS + 20))
  until health; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.2
  done
}

"${@:-main}"
