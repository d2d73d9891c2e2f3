# edgec: everything a person or CI does with this repository.
#   make demo    one model from compile to rollback, on real processes; leaves nothing behind
#   make test    the test suite
# Both set up .venv themselves. `make help` lists the rest.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Build environments obey the same pins as the install itself.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo serve test test-full check accel fuzz bench models clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(VENV)/installed ## create .venv with everything, at the pinned versions; quick when nothing changed

# torch comes first and alone: its pinned build decides what the rest resolves against.
$(VENV)/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the pinned dependencies (about 2.5 GB; two to five minutes the first time)"
	@$(BIN)/pip install --quiet torch==2.13.0
	@$(BIN)/pip install --quiet --editable '.[compiler,keras,vela,fleet,postgresql,models,dev]'
	@touch $@

demo: install ## compile, sign, ship as a diff, hot-swap, infer, refuse, roll back: about a minute
	@$(BIN)/python scripts/demo

serve: install ## the demo's fleet, left running for a person; Ctrl-C stops it
	@$(BIN)/python scripts/demo --serve

test: install ## unit, property and end-to-end tests
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not full"

test-full: install ## the long suites too
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder --hypothesis-profile searching

check: install ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

accel: install ## edgec-accel's wheels for x86-64 and aarch64 into accel/dist; installs the one for this machine
	@$(BIN)/python accel/build.py

fuzz: install ## the decoder of patches, a minute; by atheris where it is installed
	@$(BIN)/python tests/bundle/delta_tensor/fuzz.py 60

bench: install ## the figures that README and docs quote
	@$(BIN)/python benchmarks/run.py

models: install ## train every recipe of models/ anew and write what it commits: about ten minutes
	@for recipe in models/*/train.py; do $(BIN)/python $$recipe || exit 1; done

clean: ## remove .venv and what tools left
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
