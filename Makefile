# Two commands for a fresh machine with Python >= 3.11 and make:
#   make demo    runs the first notebook headlessly, with live progress on the terminal
#   make test    runs every test that this machine can run

PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11 python,\
            $(shell $(p) -c 'import sys; print("$(p)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
ARGS ?=

.PHONY: demo test e2e picture notebooks bench lint format install clean
.DEFAULT_GOAL := test

install: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found. Install it, or say make PYTHON=/path/to/python." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV) with $(PYTHON) ..."; $(PYTHON) -m venv $(VENV); } || \
	  { echo "$(PYTHON) can't make an environment. On Debian: apt install python3-venv." >&2; rm -rf $(VENV); exit 1; }
	@echo "Installing into $(VENV), which takes about a minute the first time ..."
	@$(PIP) --upgrade 'pip>=25.1'
	@$(PIP) --editable . --group dev
	@touch $@

demo: $(STAMP)
	@$(BIN)/python notebooks/live.py notebooks/01-first-job.ipynb

# Browser and PostgreSQL tests run when those are found, else they are skipped with a reason; with CI=true they must be there.
test: $(STAMP)
	@$(BIN)/python -m pytest $(ARGS) --cov

e2e: $(STAMP)
	@$(BIN)/python -m pytest tests/browser $(ARGS)

picture: $(STAMP)
	@$(BIN)/python -m pytest -q tests/browser -k picture $(ARGS)
	@mkdir -p notebooks/images && cp tests/browser/screenshots/picture.png notebooks/images/card.png

# Runs the notebooks anew and saves their outputs as they are committed.
notebooks: $(STAMP)
	@NODETOOL_NONINTERACTIVE=1 $(BIN)/python notebooks/live.py --save notebooks/*.ipynb

bench: $(STAMP)
	@$(BIN)/python -m tests.benchmarks $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(STAMP)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/browser/screenshots
