# The commands of this repository; `make` alone lists them. ARGS="..." goes to the program behind demo and test.
.DEFAULT_GOAL := help
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test test-compose test-cluster sbom lint format lock proto bench clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed  ## the virtual environment .venv (the other commands make it when it is missing)

$(VENV)/.installed: pyproject.toml requirements.lock scripts/setup.sh
	@PYTHON="$(PYTHON)" bash scripts/setup.sh

demo: $(VENV)/.installed  ## captions -> images -> encoder -> probe on this machine, 4 to 10 minutes; ARGS="--size tiny"
	@$(BIN)/stablerep demo $(ARGS)

test: $(VENV)/.installed  ## unit, integration and end-to-end tests; ARGS="tests/unit -k loss" runs some
	@bash scripts/test.sh $(ARGS)

test-compose: $(VENV)/.installed  ## the compose file brought up on a real Docker engine, a worker killed, all restarted
	@OMP_NUM_THREADS=1 exec $(BIN)/python scripts/compose_test $(ARGS)

test-cluster: $(VENV)/.installed  ## the chart on a real Kubernetes (KUBECONFIG, kind, or one brought up here): install, scale, train, kill
	@exec $(BIN)/python scripts/cluster/run_tests.py $(ARGS)

sbom: $(VENV)/.installed  ## what images and chart are made of, as SPDX documents in sbom/; ARGS="gateway=registry/image:tag"
	@$(BIN)/python scripts/sbom.py $(ARGS)

lint: $(VENV)/.installed  ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## let ruff format the code and fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.installed  ## renew requirements.lock from the ranges in pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --universal --all-extras --no-annotate --no-header \
		--no-emit-index-url --upgrade --quiet -o requirements.lock

proto: $(VENV)/.installed  ## renew stablerep/v1 from proto/, and the blocking client from the asyncio one
	$(BIN)/python scripts/generate_protos.py
	$(BIN)/python scripts/make_sync_client.py

bench: $(VENV)/.installed  ## measurements against what a user would pick instead, into benchmarks/results/
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.imports
	$(BIN)/python -m benchmarks.input
	$(BIN)/python -m benchmarks.loss
	$(BIN)/python -m benchmarks.opening
	$(BIN)/python -m benchmarks.queue
	$(BIN)/python -m benchmarks.worker
	$(BIN)/python -m benchmarks.plots

clean:  ## remove the virtual environment, the demo's output and the caches of this checkout
	rm -rf $(VENV) .cache demo .mypy_cache .ruff_cache .pytest_cache
