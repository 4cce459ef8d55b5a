# The two commands of the README. Both set up a virtual environment under the repo first.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
CORES ?= all
WORKERS ?= auto
export PATH := $(BIN):$(PATH)

.DELETE_ON_ERROR:
.PHONY: setup deepspeed demo test test-quick lint format lock audit clean

setup: $(VENV)/.installed  ## the virtual environment, from the lock file

$(VENV)/.installed: envs/install.sh envs/requirements.lock envs/requirements-torch.lock envs/requirements-uv.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "rlgen needs Python >= 3.11; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	envs/install.sh $(BIN)/python
	touch $@

$(VENV)/.installed-deepspeed: envs/requirements-deepspeed.lock $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-build-isolation -r $<
	touch $@

$(VENV)/.installed-tests: envs/requirements-tests.lock $(VENV)/.installed-deepspeed
	$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
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

lock: setup  ## write envs/requirements.lock anew from pyproject.toml; pins that still fit stay as they are
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --no-header --extra dev --constraint envs/requirements-torch.lock --no-emit-package torch \
	  --output-file envs/requirements.lock pyproject.toml
	{ printf '%s\n' '# Exact versions for CPython 3.11+ on Linux (x86-64, arm64) and macOS (arm64), with the hashes of every file.' \
	  '# torch is in requirements-torch.lock. Written by `make lock`; install with envs/install.sh.'; \
	  cat envs/requirements.lock; } > envs/requirements.lock.new
	mv envs/requirements.lock.new envs/requirements.lock

audit: setup  ## report pins with known vulnerabilities, if the advisory service can be reached
	$(BIN)/python envs/audit.py envs/requirements.lock

clean:  ## the environment; results stay
	rm -rf $(VENV)
