# The commands of this repository; `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint proto bench clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml requirements.lock scripts/setup.sh
	@PYTHON="$(PYTHON)" bash scripts/setup.sh

demo: $(VENV)/.installed  ## captions -> images -> encoder -> probe on this machine, about 8 minutes
	@$(BIN)/stablerep demo

test: $(VENV)/.installed  ## unit, integration and end-to-end tests
	@bash scripts/test.sh

lint: $(VENV)/.installed  ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proto: $(VENV)/.installed  ## renew stablerep/v1 from proto/
	$(BIN)/python scripts/generate_protos.py

bench: $(VENV)/.installed  ## measurements against what a user would pick instead
	$(BIN)/python -m benchmarks.imports
	$(BIN)/python -m benchmarks.loss

clean:  ## remove the virtual environment and caches of this checkout
	rm -rf $(VENV) .cache demo .mypy_cache .ruff_cache .pytest_cache
