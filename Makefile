# make demo       set up, and run the whole chain on the embedded demo
# make test       set up, and run the tests
# make platform   Prefect and MLflow on this machine, until Ctrl-C
# make ui         MLflow on the runs of this folder
# CUDA=1          torch with CUDA instead of the CPU build
# TORCH_INDEX=URL where pip finds the torch build you want, e.g. PyTorch's own package index for CPU or your CUDA version

PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CONSTRAINT := $(if $(CUDA),,-c constraints.txt)
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := true

.PHONY: demo test install platform ui lint

demo: .venv/installed
	dvc repro
	@echo "Compare runs in MLflow: make ui"

test: .venv/installed-dev
	python -m pytest

lint: .venv/installed-dev
	ruff check .
	mypy

platform: .venv/installed
	python infra/platform.py

ui: .venv/installed
	meddiff ui

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(or $(shell command -v $(PYTHON)),python3) -m venv .venv
	@echo "Installing meddiff into .venv (a few minutes the first time)"
	$(PIP) install $(CONSTRAINT) $(INDEX) -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) install $(CONSTRAINT) $(INDEX) -e '.[dev]'
	touch $@
