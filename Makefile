# make demo       set up, and run the whole chain on the embedded demo (or on what params.yaml names)
# make ui         MLflow on the runs of this folder
# make platform   Prefect and MLflow on this machine, until Ctrl-C; PROFILE=team: with PostgreSQL, an S3 server and sign-on
# make test       set up, and run the tests;  make lint: ruff, mypy, bandit and pip-audit
# make team       set up with PostgreSQL and the S3 server SeaweedFS as programs in .venv
# make install    set up only: everything lies in .venv, and is installed anew only when pyproject.toml, constraints.txt or locks/ change
# make lock       write locks/ anew, after a change of pyproject.toml;  make sbom: write sbom.json, what .venv holds (CycloneDX)
#
# CUDA=1          torch with CUDA; remembered until `make install CUDA=`
# TORCH_INDEX=URL a further package index to take torch from, such as PyTorch's own with its small CPU builds: the public index
#                 has CUDA builds only for Linux, which run on the CPU too
# PYTHON=PATH     the CPython 3.11 or 3.12 to use

PYTHON ?= $(or $(shell command -v python3.11),python3)
CUDA ?= $(wildcard .venv/installed-cuda)
DONE := .venv/installed-$(if $(CUDA),cuda,cpu)
PIP := .venv/bin/python -m pip --disable-pip-version-check
# Every file must have a hash that stands in locks/. What is there is all that is installed: no package is looked for beside it.
LOCKED := $(PIP) install --quiet --no-deps --require-hashes --requirement
# But for torch and what it alone needs, which differ by machine and come from the index that TORCH_INDEX names.
TORCH := $(PIP) install --quiet 'torch>=2.13' $(if $(CUDA),,-c constraints.txt) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
LOCK := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--override locks/without.txt --constraint constraints.txt
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := true

.PHONY: demo test install platform ui team lint lock sbom

demo: $(DONE)
	meddiff repro
	@echo "Look at the runs in MLflow with: make ui"

test: $(DONE)-dev
	python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(DONE)-dev
	ruff check .
	mypy
	bandit --quiet --configfile pyproject.toml --recursive meddiff flows infra
	python .ci/audit.py

lock: $(DONE)-dev
	$(LOCK) --extra dev --extra team --extra tuning --output-file locks/dev.txt
	$(LOCK) --constraint locks/dev.txt --extra team --output-file locks/team.txt
	$(LOCK) --constraint locks/dev.txt --extra dicom --extra volumes --extra encoder --extra onnx --extra tuning --output-file locks/image.txt
	$(LOCK) --constraint locks/dev.txt --output-file locks/base.txt

sbom: $(DONE)-dev
	cyclonedx-py environment .venv --pyproject pyproject.toml --output-file sbom.json
	@echo "What .venv holds: sbom.json"

platform: $(if $(filter team,$(PROFILE)),$(DONE)-team,$(DONE))
	@exec python infra/serve.py $(if $(PROFILE),--profile $(PROFILE))

ui: $(DONE)
	@exec meddiff ui

team: $(DONE)-team

install: $(DONE)

# Without its mark .venv is missing, unfinished or for the other kind of torch: it is made from scratch.
$(DONE): pyproject.toml constraints.txt locks/base.txt
	@echo "Installing meddiff into .venv: minutes the first time"
	test -f $@ || $(PYTHON) -m venv --clear .venv
	$(LOCKED) locks/base.txt
	$(TORCH)
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	$(PIP) check
	@touch $@

$(DONE)-dev: $(DONE) locks/dev.txt
	$(LOCKED) locks/dev.txt
	@touch $@

$(DONE)-team: $(DONE) locks/team.txt
	$(LOCKED) locks/team.txt
	@touch $@
