# `make demo` and `make test` need python3, make and a network; each makes or refreshes .venv by itself.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
RECIPE ?= configs/scenes.yaml
ARGS ?=
TESTS ?= tests

# accelerate gives a single process one CPU thread unless it is told otherwise.
THREADS ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
# Each worker imports torch and transformers, about 10 s and 0.5 GiB: more than four cost more than they give.
WORKERS ?= $(shell $(PYTHON) -c 'print(min(4, $(THREADS)))')
# The four settings that accelerate warns about when they are left out. One process takes one GPU if there is any:
# with several in sight the trainer would split each batch between them.
LAUNCH := CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES-0} $(VENV)/bin/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	--num_cpu_threads_per_process $(THREADS)

.DEFAULT_GOAL := help
.PHONY: help demo test conformance lint format clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(STAMP)  ## Train, evaluate, export and search on generated scenes; see outputs/demo
	$(LAUNCH) train.py $(RECIPE) $(ARGS)

test: lint  ## Lint, types and the offline tests
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile $(TESTS)

# Without the options of our own tests: the common ones use marks that we do not declare.
conformance: $(STAMP)  ## The common tests of transformers, fetched from its source archive
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -o addopts= -q -n $(WORKERS) --disable-warnings -r fE conformance

lint: $(STAMP)  ## Ruff (no fixes) and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(STAMP)  ## Sort imports, fix and format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:  ## Remove .venv and the caches; outputs stay
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache

# Touched last: an install that stops half-way is repeated.
$(STAMP): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -e ".[dev,demo]" -c constraints.txt
	touch $@
