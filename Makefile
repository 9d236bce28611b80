VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
PIP := $(VENV)/bin/pip install --disable-pip-version-check

.PHONY: help env demo demo_full mini_t0 mini_t0_table test test_full check bench
.DEFAULT_GOAL := help

help:  ## what each target does
	@grep -E '^[a-z_0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z_0-9]+):.*## /  make \1\t/' | expand -t 22

env: $(READY)  ## the environment in .venv (Python 3.11), with everything installed

$(READY): requirements.txt pyproject.toml
	@echo "Installing into $(VENV): torch and friends, some minutes on a first run."
	python3 -m venv $(VENV)
	$(PIP) --quiet -r requirements.txt
	$(PIP) --quiet --no-deps --ignore-requires-python promptsource==0.2.3
	$(PIP) --quiet --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)  ## the main job, offline: zero-shot, (IA)³ and full fine-tuning on three synthetic tasks, 5 seeds
	$(PYTHON) scripts/demo.py demo

demo_full: $(READY)  ## the same on all eight held-out tasks
	$(PYTHON) scripts/demo.py full

mini_t0: $(READY)  ## mini-T0, the small model that ships with the package, made again from nothing
	$(PYTHON) scripts/make_mini_t0.py

mini_t0_table: $(READY)  ## its ablation of the recipe: losses and score norms; VECTORS=FOLDER adds pre-trained vectors
	$(PYTHON) scripts/demo.py table $(if $(VECTORS),init_adapter=$(VECTORS))

test: $(READY)  ## the tests, but for the slow ones
	$(PYTHON) -m pytest -m "not slow"

test_full: $(READY)  ## all tests
	$(PYTHON) -m pytest

bench: $(READY)  ## ours against the official recipe, HF peft and lm-evaluation-harness, side by side
	$(PYTHON) -m scripts.bench

check: $(READY)  ## formatter, linter, type checker
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
