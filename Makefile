# Two commands do all the set-up: `make report` (the main job) and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: report test lint gates notebooks clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("lens_steer needs Python 3.11 or newer: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

report: $(INSTALLED)  ## figures, numbers and report.md of the embedded Qwen2 organism
	$(BIN)/lens-steer report --model organism/qwen2 --out figures

test: $(INSTALLED)  ## the whole test suite
	MPLBACKEND=Agg $(BIN)/python -m pytest

lint: $(INSTALLED)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

gates: $(INSTALLED)  ## the organisms' gates table from their committed measurements
	$(BIN)/python -m analyses.gates --out figures --readme README.md

notebooks: $(INSTALLED)  ## write the notebooks anew from their sources, with outputs
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[notebook]'
	$(BIN)/jupytext --to ipynb --execute notebooks/*.py

clean:
	rm -rf $(VENV) build dist *.egg-info
