# The only commands that people and CI run. Needs Python 3.11 to 3.13 and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAST := tests/core tests/adapters tests/actors tests/api tests/simulation tests/tools

.PHONY: run install check test test-ray bench clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml deploy/constraints.txt
	@echo "Installing into $(VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint deploy/constraints.txt --editable '.[test]'
	@touch $@

run: install
	@$(BIN)/nvrx-attrsvc demo $(if $(ONCE),--once)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install
	$(BIN)/pytest $(FAST)

test-ray: install
	$(BIN)/pytest tests/cluster tests/e2e

bench: install
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
