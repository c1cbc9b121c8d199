# Every target makes the environment that it needs, in .venv, from hashed lock files; a second run is quick.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
TAPEHOUSE := .venv/bin/tapehouse
PEERS_PYTHON := .venv-peers/bin/python
PYTEST := $(PYTHON) -m pytest
WORKERS ?= 2
# A file's tests stay in one worker, which has brokers and stores of its own. In the order of names the files that take
# longest begin first and many short ones end the run.
SHARED := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
UV ?= uv
ARGS ?=
WARM := $(TAPEHOUSE) doctor --warm >/dev/null  # kernels that are there already are left alone

LOCK := $(UV) pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	--custom-compile-command "make lock" --quiet --extra demo

.PHONY: help base dev tools warm demo test check integration-test test-chaos benchmark peers load-test format lock clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 20

base:
	@infra/environment.sh base

dev:
	@infra/environment.sh dev

warm: base ## Compile the kernels now (a minute, once for a version), so that nothing waits for it later
	@$(WARM)

demo: base ## The whole loop on a generated market day; ends with the proof (ARGS="--lobster ZIP" for other data)
	@$(TAPEHOUSE) demo $(ARGS)

tools: dev ## What no package brings, built from Go source once per machine (minutes): MinIO, the checker of histories
	@$(PYTHON) -m tests.support.minio >/dev/null
	@$(PYTHON) -m tests.support.linearizable >/dev/null

test: tools ## All tests but chaos, load and benchmarks, in one pytest run of WORKERS=2 (ARGS="-k frame" to choose)
	@$(WARM)
	@$(PYTEST) $(SHARED) -m "not chaos and not bench and not load" $(ARGS)

check: dev ## Lint, format, types, and the imports between rooms
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@$(PYTEST) -q tests/arch

integration-test: tools ## Only the tests against real servers
	@$(WARM)
	@$(PYTEST) $(SHARED) tests/integration -m "not chaos and not bench and not load" $(ARGS)

test-chaos: tools ## Fault campaigns: kill, pause, partition, full disk, flipped bits (minutes)
	@$(WARM)
	@$(PYTEST) -m chaos --timeout=1800 $(ARGS)

benchmark: dev ## The table of measurements, with this machine described (ARGS=NAME for one; see peers)
	@TAPEHOUSE_PEERS="$${TAPEHOUSE_PEERS:-$$(test -x $(PEERS_PYTHON) && echo $(PEERS_PYTHON) || true)}" $(TAPEHOUSE) bench $(ARGS)

peers: dev ## What benchmarks stand beside: libraries (.venv-peers), and etcd and rqlite, built from Go source (minutes)
	@infra/peers.sh

load-test: dev ## Many clients for minutes against a cluster of three
	@$(PYTEST) tests/bench -m load -s --timeout=1800 $(ARGS)

format: dev ## Rewrite the sources in the project's format
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

lock: ## Choose new versions of all dependencies (needs uv)
	@$(LOCK) --upgrade --group build --output-file requirements.txt
	@$(LOCK) --upgrade --extra profile --extra calendars --group dev --constraint requirements.txt --output-file requirements-dev.txt

clean: ## Remove the environment and everything generated
	@rm -rf .venv .venv-peers .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build out
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
