# Two commands do everything on a fresh machine with Python >= 3.11, git and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slow test-all lint bench docs clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "adaptrun needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,bench,dev]'
	@touch $@

demo: setup
	$(BIN)/adaptrun demo

test: setup
	$(BIN)/pytest

test-slow: setup
	$(BIN)/pytest -m 'slow and not gpu'

test-all: setup
	$(BIN)/pytest -m 'not gpu'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/training.py

docs: setup
	$(BIN)/python -m launcher.job.reference

clean:
	rm -rf .venv build dist *.egg-info adaptrun-demo
