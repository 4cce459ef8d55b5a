# The two commands of the README. Both set up a virtual environment under the repo first.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
CORES ?= all
WORKERS ?= auto
export PATH := $(BIN):$(PATH)

.DELETE_ON_ERROR:
.PHONY: setup deepspeed demo test test-quick lint format clean

setup: $(VENV)/.installed  ## the virtual environment, from the lock file

$(VENV)/.installed: envs/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "rlgen needs Python >= 3.11; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' envs/requirements.lock)
	$(BIN)/pip install --quiet --disable-pip-version-check -r envs/requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.installed-deepspeed: envs/requirements-deepspeed.lock $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -r $<
	touch $@

$(VENV)/.installed-tests: envs/requirements-tests.lock $(VENV)/.installed-deepspeed
	$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check -r $<
	touch $@

deepspeed: $(VENV)/.installed-deepspeed  ## what arms with `zero` need

demo: setup  ## the miniature study, from nothing to its report
	snakemake --profile profiles/local --cores $(CORES)
	@echo "Done. Open results/mini/report/index.html"

test: $(VENV)/.installed-tests  ## all tests
	pytest --numprocesses $(WORKERS) --durations=25

test-quick: $(VENV)/.installed-tests  ## the tests that take seconds
	pytest --numprocesses $(WORKERS) -m "not slow"

lint: setup  ## style and types
	ruff check .
	ruff format --check .
	mypy

format: setup
	ruff format .
	ruff check --fix .

clean:  ## the environment; results stay
	rm -rf $(VENV)
