# make demo | test | wheel-check | lint | bench | docs | clean. Everything is set up by itself in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is installed beside the light core: cuda12 or cuda13 where there is a GPU, nothing else.
ifndef CUDA
CUDA := $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda12)
endif
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Compiled modules are kept, as where a package is installed: without them each process of a loader compiles its own.
export PYTHONDONTWRITEBYTECODE =

# Where the CPU build of torch lies: gigabytes less, and neither the tests nor the benchmark use torch on a GPU.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0+cpu
# Processes that share the tests: one more than cores, since a quarter of the tests' time is waiting.
WORKERS ?= $(shell expr $$(nproc) + 1)

.PHONY: demo test wheel-check lint format docs gpu-report gpu-probe docker-check docker-lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo [CUDA=cuda12]  stream the photographs that ship with the package and write demo.png"
	@echo "make test [WORKERS=2] [TESTS='tests/sources -k http']  lint, types and the test suite"
	@echo "make wheel-check [DIST=dist]  build sdist and wheel, check them, and try the wheel in clean environments of each Python here"
	@echo "make lint    ruff and mypy only"
	@echo "make format  rewrite the code in its style"
	@echo "make docs    build the docs as a site, into site/: open site/index.html"
	@echo "make bench [BENCH='--only local --runs 5']  compare with the peers on this machine: docs/performance.md"
	@echo "make bench BENCH=--everything  all that docs/performance.md has, in one run of more than half an hour"
	@echo "make bench-peers  install the peers that need torch, in .venv-bench, for make bench to find"
	@echo "make gpu-report [OUT=folder] [DEVICE=cuda]  check and measure the GPU path: docs/gpu/README.md"
	@echo "make gpu-probe [RUN=python3]  what the GPU path leans on, asked with torch and cupy only"
	@echo "make docker-check  build the images, run the demo and the CPU benchmark in them: docs/docker.md"
	@echo "make clean   remove .venv and what tools left"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# A stamp for each set of extras, renewed when the requirements change.
$(VENV)/.run: $(BIN)/python pyproject.toml
	@echo "No GPU here (nvidia-smi lists none): installing the light core into $(VENV), 180 MB. CUDA=cuda12 takes DALI and CUDA, too."
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.run-%: $(BIN)/python pyproject.toml
	@echo "Installing with DALI, cupy and CUDA ($*) into $(VENV), 1.7 GB: that takes minutes. CUDA= leaves those out."
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

# Without torch its tests are skipped, which CI refuses.
$(VENV)/.torch: $(VENV)/.test
	@if $(BIN)/python -m pip install --quiet --no-deps '$(TORCH)' --extra-index-url $(TORCH_INDEX) --retries 1; then \
		$(BIN)/python -m pip install --quiet --editable '.[test,test-torch]' && touch $@; \
	else \
		echo "$(TORCH) cannot be had, from the usual index or from TORCH_INDEX=$(TORCH_INDEX): its tests are skipped"; \
		test -z "$$CI"; \
	fi

demo: $(VENV)/.run$(CUDA:%=-%)
	$(BIN)/datago-gpu demo --out demo.png

# The tests of a file share what takes long to make. tests/conftest.py has the longest files begin.
test: lint $(VENV)/.torch
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(TESTS)

wheel-check: $(VENV)/.test
	$(BIN)/python -m tests.wheel.check $(DIST)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site of the docs. Its tools have an environment of their own: neither the package nor its tests need them. uv asks the
# package index for several packages at once.
.venv-docs/.docs: tools/docs_site/requirements.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet uv
	.venv-docs/bin/uv pip install --quiet --python .venv-docs/bin/python -r $<
	@touch $@

docs: .venv-docs/.docs
	.venv-docs/bin/python -m mkdocs build

clean:
	rm -rf $(VENV) .venv-bench .venv-docs site build dist .pytest_cache .mypy_cache .ruff_cache demo.png

$(VENV)/.bench: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.run --out results/bench $(BENCH)

bench-peers:
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet torch torchvision torchcodec --extra-index-url $(TORCH_INDEX)
	.venv-bench/bin/python -m pip install --quiet 'litdata>=0.2.76' zstd 'webdataset>=1.0.2' 'grain>=0.2.18' 'mosaicml-streaming>=0.13' pillow numpy

# RUN=python3 takes an interpreter that has what is needed, where nothing can be installed.
OUT ?= results/gpu
DEVICE ?= cuda

LIMIT_S ?= 360

gpu-report: $(if $(RUN),,$(VENV)/.run-$(or $(CUDA),cuda12))
	$(or $(RUN),$(BIN)/python) -m tools.gpu_report.report --out $(OUT) --device $(DEVICE) --seconds $(LIMIT_S)

gpu-probe: $(if $(RUN),,$(VENV)/.run-$(or $(CUDA),cuda12))
	$(or $(RUN),$(BIN)/python) tools/gpu_report/probe.py --out $(OUT)

# With Docker, else as root with buildah and debootstrap. CHECK="--scale 1 --runs 3" for more than a quick look.
docker-check:
	$(PYTHON) docker/check.py $(CHECK)

# What the images install. LOCK=--upgrade takes the newest versions; without, those of the lock files stay where they can.
# One lock is for x86-64 and aarch64: markers say what only one of them has.
COMPILE = $(BIN)/uv pip compile --quiet --generate-hashes --only-binary :all: --python-version 3.11 --universal \
	--custom-compile-command 'make docker-lock' $(LOCK)
IMAGE_EXTRAS := --extra cuda12 --extra cloud --extra table --extra zstd

docker-lock: $(BIN)/python
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) pyproject.toml $(IMAGE_EXTRAS) -o docker/requirements.lock
	$(COMPILE) pyproject.toml $(IMAGE_EXTRAS) --extra bench -c docker/requirements.lock -o docker/bench.lock
	echo 'torch>=2.13' | $(COMPILE) - -c docker/bench.lock -o docker/torch.lock
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	| $(COMPILE) - -o docker/build.lock
