# One environment (.venv, pinned by constraints.txt) for everything below.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.installed
# one thread per test process: the processes themselves use the cores
TESTS := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal -q

.PHONY: help install demo test test-fast test-slow lint format clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python 3.10 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip "setuptools<81" wheel
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[dev,fast]"
	@touch $(READY)

install: $(READY)  ## make .venv with the pinned requirements

demo: $(READY)  ## images -> pretraining -> conversion -> fine-tuning -> the measured gap, on any CPU
	OMP_NUM_THREADS=1 $(RUN) transfer/measure_gap.py plans/demo.yaml --jobs 2

test: $(READY)  ## the test suite (what CI runs)
	$(TESTS) -m "not slow"

test-fast: $(READY)  ## stop at the first failure
	$(TESTS) -m "not slow" -x

test-slow: $(READY)  ## the long tests: kills, whole trainings, simulations
	$(TESTS) -m slow

lint: $(READY)  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy .

format: $(READY)  ## write ruff's formatting
	$(RUN) -m ruff format .

clean:  ## remove the environment and the demo's results
	rm -rf $(VENV) runs/demo
