# Two commands do everything on a fresh machine with Python >= 3.11, git and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# Files of tests that run at a time, with about 5 GB of memory each: make test WORKERS=2. 0: one after another.
WORKERS ?= 3
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# How long each test took: the slowest are printed, all are in build/tests.xml.
DURATIONS := --durations=30 --durations-min=5 --junitxml=build/tests.xml

.PHONY: help setup demo test test-slow test-examples test-slurm test-all lint bench docs clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

setup: .venv/installed  ## make .venv with the tested versions

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "adaptrun needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up .venv with the tested versions: some minutes, about 3 GB; the next time it is there"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,bench,dev]'
	@touch $@

demo: setup  ## take a real model from film reviews to tweets, on two processes
	$(BIN)/adaptrun demo

test: setup  ## the tests, but for the exhaustive ones
	$(BIN)/pytest $(PARALLEL) $(DURATIONS)

test-slow: setup  ## the exhaustive tests
	$(BIN)/pytest $(PARALLEL) -m 'slow and not gpu and not slurm'

test-examples: setup  ## the examples on their real data, with fewer steps
	tests/install-examples.sh
	$(BIN)/pytest -m '' tests/test_examples.py

test-slurm: setup  ## the tests on a real SLURM cluster, which they start
	tests/slurm/install.sh
	$(BIN)/pytest -m slurm

test-all: setup  ## all tests that need no GPU
	tests/install-examples.sh
	tests/slurm/install.sh
	$(BIN)/pytest -m 'not gpu'

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## the benchmarks, both sides in one run
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/consolidation.py
	$(BIN)/python benchmarks/restart.py
	$(BIN)/python benchmarks/token_loss.py
	$(BIN)/python benchmarks/adaptation.py

docs: setup  ## write the references from the code, and the pages as a site into build/site
	$(BIN)/python -m launcher.reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove what was installed, built and demonstrated
	rm -rf .venv build dist *.egg-info adaptrun-demo
