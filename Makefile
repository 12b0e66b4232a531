# Two commands: `make demo` (install and the first verdict) and `make test` (install with the test extra and check).
# Needs Python >= 3.11, make and a package registry that pip can reach. Another interpreter: make demo PYTHON=python3.13

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint types clean

help:
	@echo "make demo    install into $(VENV) and run the quick benchmark (standard, tropical, reversible)"
	@echo "make test    install with the test extra, lint, run the tests"
	@echo "make slow    the tests that take minutes (kill and resume, full benchmark)"
	@echo "make types   pyright, blocking"
	@echo "make clean   remove $(VENV) and caches; artifacts/ stays"

demo: $(VENV)/.installed
	$(BIN)/mgr bench-fixed-flops --preset quick

test: $(VENV)/.installed-test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/pyright

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found: install one, or name it: make demo PYTHON=/path/to/python" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)

# A stamp per extra: a second call installs nothing unless the requirements changed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -e . -c constraints.txt
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -e ".[test]" -c constraints.txt
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -e ".[dev]" -c constraints.txt
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
