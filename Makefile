# make demo | test | lint | bench-cpu | clean. Everything is set up by itself in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CUDA ?= cuda12
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint format gpu-report clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    stream the photographs that ship with the package and write demo.png"
	@echo "make test    lint, types and the test suite"
	@echo "make format  rewrite the code in its style"
	@echo "make gpu-report [OUT=folder] [DEVICE=cuda]  check and measure the GPU path: docs/gpu/README.md"
	@echo "make clean   remove .venv and what tools left"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# A stamp for each set of extras, renewed when the requirements change.
$(VENV)/.run: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[$(CUDA)]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

demo: $(VENV)/.run
	$(BIN)/datago-gpu demo --out demo.png

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache demo.png

# RUN=python3 takes an interpreter that has what is needed, where nothing can be installed.
OUT ?= results/gpu
DEVICE ?= cuda

gpu-report: $(if $(RUN),,$(VENV)/.run)
	$(or $(RUN),$(BIN)/python) -m benchmarks.gpu.report --out $(OUT) --device $(DEVICE)
