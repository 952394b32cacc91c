# Every target sets up what it needs on a fresh Debian machine, says what it installs, and may be run again.
#
#   make demo         build the release binary and run examples/hello.py on the embedded server
#   make test         cargo's tests, wire-check, the real clients against a real server: every promise with the newest
#                     client, and of the older ones what they do differently
#   make test-all     the same with everything for every client, for before a release; takes twice as long
#   make lint         rustfmt, clippy with warnings as errors, and tidy
#   make tidy         the crates use each other as docs/layers.txt says; documents point at what exists
#   make wire-check   our .proto files against the descriptors inside the installed clients
#   make bench        how fast it is, next to the floor, to Ray and to buildah; writes bench/results/
#   make autoscaling-table  the table of docs/autoscaling.md, from the simulation
#   make check-bare   README's commands and `make test` in a fresh Debian that has nothing but what README asks for; needs root
#   make setup        only the set-up
#   make clean        remove what was built; `make clean-state` also what the tests keep (images, clients)
#
# PYTHON=/path/to/python3 chooses the Python for the clients; without it the first of 3.11 and its neighbours is taken.
# VERSIONS="1.6.4 ..." limits the end-to-end tests to some client versions; TESTS="..." adds arguments for pytest; LANES=N
# says how many files of them run side by side (0: one after the other, in one process). DAYS=N says how many simulated days the
# real shell lives through; `cargo test` alone takes a few hundred.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?=
VERSIONS ?= 1.6.4 1.0.5 0.73.173 0.63.99
TESTS ?=
# Files of end-to-end tests run side by side, each lane with a server of its own: much of a test's time is waiting.
LANES ?= 3
DAYS ?= 10000
export PYTHON

SETUP := scripts/setup.sh
DORIAN := $(abspath $(or $(CARGO_TARGET_DIR),target)/release/dorian)
# The server makes containers, and so do the tests of the container runtime: both need root.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$(PATH)")
# Nextest runs each test in a process of its own and prints one closing line; plain `cargo test` serves as well.
CARGO_TEST := $(if $(shell command -v cargo-nextest),cargo nextest run,cargo test)

.PHONY: help demo test test-all unit-test end-to-end lint tidy wire-check bench autoscaling-table check-bare setup \
	clean clean-state

help:
	@sed -n '/^#   make/s/^#   //p' Makefile

setup:
	$(SETUP) build
	$(SETUP) run
	$(SETUP) registry
	$(SETUP) s3
	$(SETUP) js
	$(SETUP) clients $(VERSIONS)
	$(SETUP) pytest

demo:
	$(SETUP) build
	$(SETUP) run
	cargo build --release --bin dorian
	$(AS_ROOT) $(DORIAN) run examples/hello.py

lint:
	$(SETUP) build
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	$(MAKE) --no-print-directory tidy

# Python's standard library is enough for it, so that it runs before anything is set up.
tidy:
	@command -v python3 >/dev/null || $(SETUP) python >/dev/null
	scripts/tidy

# Between the marks of the document is what the command prints; a test holds it to that.
autoscaling-table:
	$(SETUP) build
	mkdir -p target
	cargo run --release -q -p dorian-simulation > target/autoscaling-table
	awk '/<!-- table ends -->/ { inside = 0 } !inside { print } /<!-- table begins -->/ { inside = 1; \
		while ((getline line < "target/autoscaling-table") > 0) print line }' docs/autoscaling.md > target/autoscaling-doc
	mv target/autoscaling-doc docs/autoscaling.md
	rm target/autoscaling-table

test: unit-test wire-check end-to-end

test-all: export DORIAN_TEST_MATRIX := all
test-all: test

unit-test:
	$(SETUP) build
	$(SETUP) run
	$(SETUP) registry
	@[ -z "$(AS_ROOT)" ] || echo "tests that make containers need root, and skip themselves without: run as root for all"
	DAYS=$(DAYS) $(CARGO_TEST) --workspace
	@! command -v python3 >/dev/null || python3 scripts/slowest

wire-check:
	$(SETUP) build
	$(SETUP) protoc
	$(SETUP) clients
	cd tests/wire && PYTHONDONTWRITEBYTECODE=1 "$$(../../$(SETUP) python)" wire_check.py
	cd tests/wire && PYTHONDONTWRITEBYTECODE=1 "$$(../../$(SETUP) python)" -m unittest wire_check_test.py

end-to-end: setup
	cargo build --release --bin dorian
	@[ -z "$(AS_ROOT)" ] || echo "the server needs root: using sudo"
	cd tests/client-compat && $(AS_ROOT) env DORIAN_BIN="$(DORIAN)" DORIAN_TEST_VERSIONS="$(VERSIONS)" \
		PYTHONDONTWRITEBYTECODE=1 ../../.dorian/pytest/bin/python -m pytest -n $(LANES) --dist loadfile $(TESTS)

bench: setup
	cargo build --release
	$(AS_ROOT) bench/run

# `ONLY=demo` or `ONLY=test` for a part of it.
check-bare:
	scripts/check-bare $(if $(ONLY),--only $(ONLY))

clean:
	cargo clean

clean-state: clean
	rm -rf .dorian
