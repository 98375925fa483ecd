PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo test check deps lint ui try services image test-image lock audit clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A fresh environment with the pinned set; runs again only when the pins or the project's metadata change.
$(BIN)/.installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable '.[dev]'
	touch $@

demo: $(BIN)/.installed  ## fetch the sample, run the chain, show the result
	dvc pull --quiet data
	dvc repro
	@python -c "import pandas; print(pandas.read_json('artifacts/evaluate/metrics.json', orient='index').round(3).to_string())"
	@echo "decision: artifacts/register/decision.html    report: artifacts/evaluate/report.html    data: artifacts/validate/data.html"
	@echo "MLflow: make ui    search: make try"

test: $(BIN)/.installed  ## all tests
	dvc pull --quiet data
	pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(BIN)/.installed  ## style, types, imports
	ruff check .
	ruff format --check .
	mypy
	lint-imports

check: lint test  ## what CI runs

ui: $(BIN)/.installed  ## MLflow's UI on localhost:5000, with links to runs and versions
	python -m serving.ui

try: $(BIN)/.installed  ## champion and challenger side by side, in a page on localhost:8501
	python -m serving.demo

services: $(BIN)/.installed  ## MLflow on PostgreSQL and S3, on localhost:5000
	python -m registry.local_stack

COMMIT := $(shell git rev-parse HEAD 2>/dev/null)
IMAGE ?= vitrine
# cpu has no CUDA, from PyTorch's own index; where that cannot be reached, `make image TORCH_BACKEND=` takes the package
# index's PyTorch, which on x86-64 carries CUDA.
TORCH_BACKEND ?= cpu
BUILD = docker build $(BUILD_FLAGS) --build-arg COMMIT=$(COMMIT) --build-arg TORCH_BACKEND=$(TORCH_BACKEND)

image:  ## container images, targets cpu and cuda; IMAGE=HOST/NAME names them
	$(BUILD) --target cpu --tag $(IMAGE):$(COMMIT)-cpu .
	$(BUILD) --target cuda --tag $(IMAGE):$(COMMIT)-cuda .
	@docker image ls --no-trunc --filter 'reference=$(IMAGE):$(COMMIT)-*' --format '{{.Repository}}:{{.Tag}}  {{.ID}}  {{.Size}}'

test-image: TORCH_BACKEND =
test-image:  ## the image that tests marked `docker` run: of this environment's own PyTorch, so that digits can be compared
	$(BUILD) --target cpu --tag vitrine:test .

deps: $(BIN)/.installed  ## write the code that each stage depends on into dvc.yaml
	python -m pipelines.code_deps

lock: $(BIN)/.installed  ## pin the newest versions that fit
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra bench --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links --upgrade pyproject.toml --output-file requirements.lock

# GHSA-w8v5-vhqr-4h9v: see CONTRIBUTING.md.
audit: $(BIN)/.installed  ## known vulnerabilities of the pins, and secrets in our files
	uv tool run pip-audit --requirement requirements.lock --disable-pip --no-deps --ignore-vuln GHSA-w8v5-vhqr-4h9v
	git ls-files -z | xargs -0 uv tool run --from detect-secrets detect-secrets-hook \
	  --exclude-files '^(data-remote|tests)/' --exclude-secrets ABCDEFGHJKLMNPQRSTUVWXYZ

clean:  ## remove what was made, keep the environment and the data
	rm -rf artifacts mlruns mlartifacts mlflow.db .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
