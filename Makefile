# One environment (.venv, pinned by constraints.txt) for everything below.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.installed
# -qq: errors only. pip would also repeat setuptools' remark on editable installs and remarks on the local pip settings.
PIP := $(RUN) -m pip install -qq
# one thread per test process: the processes themselves use the cores
TESTS := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal -q

.PHONY: help install demo gpu-check test test-fast test-slow coverage lint format clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip "setuptools<81" wheel
	$(PIP) --constraint constraints.txt --editable ".[dev,fast]"
	@touch $(READY)

install: $(READY)  ## make .venv with the pinned requirements

demo: $(READY)  ## images -> pretraining -> conversion -> fine-tuning -> the measured gap, on any CPU
	OMP_NUM_THREADS=1 $(RUN) transfer/measure_gap.py plans/demo.yaml --jobs 2

# No $(READY): a machine with a GPU often has no network, and a torch of its own.
gpu-check:  ## on a machine with a GPU: what works there and how fast, in 8 minutes, without a network; options in ARGS
	$(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) benchmarks/gpu_check.py $(ARGS)

test: $(READY)  ## the fast tests (what CI runs)
	$(TESTS) -m "not slow"

test-fast: $(READY)  ## the same, stopped at the first failure
	$(TESTS) -m "not slow" -x

test-slow: $(READY)  ## the long tests: kills, whole trainings, simulations
	GAP_TESTS_START_ANEW=1 $(TESTS) -m slow

coverage: $(READY)  ## the fast tests with line coverage, child processes included; fails below the floor
	$(TESTS) -m "not slow" --cov --cov-report=term:skip-covered

lint: $(READY)  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy .

format: $(READY)  ## write ruff's formatting
	$(RUN) -m ruff format .

clean:  ## remove the environment and the demo's results
	rm -rf $(VENV) runs/demo
