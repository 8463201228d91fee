# The only commands that people and CI run. Needs Python 3.11 to 3.13 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint deploy/constraints.txt
FAST := tests/core tests/adapters tests/actors tests/api tests/simulation tests/tools

unexport PYTHONDONTWRITEBYTECODE # Else every process of the tests compiles everything anew.

.PHONY: run install check test test-ray test-long bench clean

install: $(VENV)/run-ready

$(VENV)/run-ready: pyproject.toml deploy/constraints.txt
	@echo "Installing into $(VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@touch $@

$(VENV)/test-ready: $(VENV)/run-ready
	@echo "Installing what the tests need ..."
	@$(PIP) --editable '.[test]'
	@touch $@

run: install
	@$(BIN)/nvrx-attrsvc demo $(if $(ONCE),--once)

check: $(VENV)/test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(VENV)/test-ready
	$(BIN)/pytest -n 3 --dist worksteal $(FAST)

test-ray: $(VENV)/test-ready
	$(BIN)/pytest tests/cluster tests/e2e -m "not long and not real"

test-long: $(VENV)/test-ready
	$(BIN)/pytest tests/cluster tests/e2e -m "long or real"

bench: $(VENV)/test-ready
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
