#!/usr/bin/env bash
# What the Makefile's targets need on a machine that has only the base system: each part installs only what is
# missing, and says so first. Everything that is not a Debian package goes to `.dorian/`, which git ignores.
#
#   scripts/setup.sh build              a C compiler; checks that Cargo is there
#   scripts/setup.sh run                what the server needs at run time
#   scripts/setup.sh clients [V...]     .dorian/clients/V, one Python environment per version of the client
#   scripts/setup.sh protoc             the compiler of .proto files, for the wire check
#   scripts/setup.sh pytest             .dorian/pytest, and sqlite3 for a test of backups
#   scripts/setup.sh registry           docker-registry and packers, for the tests of `from_registry` and of `ADD`
#   scripts/setup.sh s3                 .dorian/s3, a store for the tests of bucket mounts
#   scripts/setup.sh js                 nodejs, npm and .dorian/js, the JavaScript SDK
#   scripts/setup.sh bench              buildah and redis-server, which the bench compares with
set -euo pipefail
cd "$(dirname "$0")/.."

# The versions that Dorian promises to serve: the newest, and the last of each older spelling.
CLIENT_VERSIONS="1.6.4 1.0.5 0.73.173 0.63.99"

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "\`$*\` needs root: run it as root, or install sudo"; fi
}

is_installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

# A fresh machine has no package lists; a refresh is paid for only when apt does not know a package.
debian_packages() {
    command -v dpkg-query >/dev/null || { say "not a Debian system: install by other means: $*"; return; }
    local missing=() name
    for name in "$@"; do is_installed "$name" || missing+=("$name"); done
    [ ${#missing[@]} = 0 ] && return
    say "installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    local install=(apt-get install -y -q --no-install-recommends "${missing[@]}")
    as_root "${install[@]}" >&2 2>/dev/null || { as_root apt-get update -q >&2; as_root "${install[@]}" >&2; }
}

# A Python that the clients run on: 3.11 when there is one, since the bases made without a registry have it too.
choose_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3 python3.13 python3.12 python3.10; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
        "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
            2>/dev/null && { command -v "$candidate"; return; }
    done
    return 1
}

python() {
    choose_python && return
    debian_packages python3 python3-venv python3-pip
    choose_python || fail "no Python from 3.10 to 3.13: install one and pass it as \`make PYTHON=/path/to/python3\`"
}

# Client packages before 1.2 take any `typer`, and break on ones that came years later: give them those of their day.
of_its_day() { case "$1" in
        0.*) echo 'typer<0.16' 'click<8.2' 'aiohttp<3.12' ;;
        1.0.*) echo 'typer<0.16' 'click<8.2' ;;
    esac; }

client() {
    local version=$1 home=.dorian/clients/$1
    # An environment from before `Secret.from_dotenv` was tested has no `dotenv`.
    [ -f "$home/.complete" ] && "$home/bin/python" -c 'import dotenv' 2>&- && return
    local interpreter; interpreter=$(python)
    say "installing the client modal==$version into $home ($interpreter)"
    rm -rf "$home"
    "$interpreter" -m venv "$home"
    # `setuptools` is for the oldest, whose generated code still imports `pkg_resources`.
    # shellcheck disable=SC2046
    "$home/bin/python" -m pip install -q --no-warn-script-location "modal==$version" 'setuptools<81' 'python-dotenv<2' $(of_its_day "$version")
    touch "$home/.complete"
}

pytest_environment() {
    [ -f .dorian/pytest/.complete ] && .dorian/pytest/bin/python -c 'import pytest, xdist' 2>/dev/null && return
    local interpreter; interpreter=$(python)
    say "installing pytest and pytest-xdist into .dorian/pytest ($interpreter)"
    rm -rf .dorian/pytest
    "$interpreter" -m venv .dorian/pytest
    .dorian/pytest/bin/python -m pip install -q 'pytest>=8,<10' 'pytest-xdist>=3.6,<4'
    touch .dorian/pytest/.complete
}

# Debian's package starts a registry on port 5000 by itself; the tests start their own, and nobody asked for that one.
registry() {
    is_installed docker-registry || local fresh=yes
    debian_packages docker-registry zstd bzip2 xz-utils
    [ -z "${fresh:-}" ] || as_root systemctl disable --now docker-registry >/dev/null 2>&1 || true
}

# Checks signatures and rights as a real one does. Only what its S3 part needs.
s3() {
    [ -f .dorian/s3/.complete ] && return
    local interpreter; interpreter=$(python)
    say "installing moto, a store with S3's interface, into .dorian/s3 ($interpreter)"
    rm -rf .dorian/s3
    "$interpreter" -m venv .dorian/s3
    .dorian/s3/bin/python -m pip install -q 'moto[s3]>=5.1,<6' flask flask-cors
    touch .dorian/s3/.complete
}

# The SDK is a version of its own, since `latest` of that name may be another's package.
JS_SDK_VERSION=0.11.1
js() {
    local home=.dorian/js
    [ "$(cat $home/.complete 2>/dev/null)" = "$JS_SDK_VERSION" ] && command -v node >/dev/null && return
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then debian_packages nodejs npm; fi
    command -v npm >/dev/null || fail "no npm: install nodejs and npm"
    say "installing the JavaScript SDK modal@$JS_SDK_VERSION into $home"
    rm -rf $home
    mkdir -p $home
    echo '{"private": true}' > $home/package.json
    npm install --prefix $home --no-audit --no-fund --loglevel=error "modal@$JS_SDK_VERSION" >&2
    echo "$JS_SDK_VERSION" > $home/.complete
}

cargo_is_there() {
    command -v cargo >/dev/null || fail "no cargo: install Rust 1.85 or newer, for example with" \
        "\`curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y\`, and open a new shell"
}

case "${1:-}" in
    build) debian_packages gcc libc6-dev; cargo_is_there ;;
    # A Python for the client that `dorian run` installs.
    run) debian_packages mmdebstrap nftables iproute2 e2fsprogs zstd ca-certificates; python >/dev/null ;;
    clients) shift; for version in ${*:-$CLIENT_VERSIONS}; do client "$version"; done ;;
    # With what a test of the documented backup runs.
    pytest) debian_packages sqlite3; pytest_environment ;;
    # With the files that ours import.
    protoc) debian_packages protobuf-compiler libprotobuf-dev ;;
    registry) registry ;;
    s3) s3 ;;
    js) js ;;
    # Without an OCI runtime: it runs its steps with `--isolation chroot`.
    bench) debian_packages buildah redis-server ;;
    python) python ;;
    *) fail "usage: scripts/setup.sh build | run | clients [VERSION...] | protoc | pytest | registry | s3 | js | bench | python" ;;
esac
