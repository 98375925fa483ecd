PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo test quick check deps shop lint docs experiments ui try services image image-cpu image-cuda image-serving test-image lock audit clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# An environment with the pinned packages; runs again only if the pins or the project's metadata change.
$(BIN)/.installed: pyproject.toml eval/pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable '.[dev]'
	touch $@

demo: $(BIN)/.installed  ## download the sample, run the chain, show the results
	dvc pull --quiet data
	dvc repro
	@python -c "import pandas; print(pandas.read_json('artifacts/evaluate/metrics.json', orient='index').round(3).to_string())"
	@echo "decision: artifacts/register/decision.html    report: artifacts/evaluate/report.html    data: artifacts/validate/data.html"
	@echo "MLflow: make ui    search: make try"

test: $(BIN)/.installed  ## all tests
	dvc pull --quiet data
	pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

quick: $(BIN)/.installed  ## tests without complete chains, kills, browsers, services and containers: some minutes
	pytest --numprocesses 3 --dist loadfile -m 'not slow and not services and not docker'

lint: $(BIN)/.installed docs  ## style, types, imports, spelling, links of the documentation
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	codespell

docs: $(BIN)/.installed  ## build the documentation into site/; broken links fail
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "documentation: site/index.html    with search: python -m http.server --directory site"

check: lint test  ## lint and all tests, as in CI

# The candidate's metrics that the gate compares, and the parameters that differ; `dvc exp show` has about 200 columns.
experiments: $(BIN)/.installed  ## table of DVC experiments: changed parameters and main metrics
	dvc exp show --only-changed --precision 4 \
	  --drop '^(?!Experiment|(ndcg@10|recall@100|mrr@10)$$|(validate|featurize|train|evaluate|register)\.)'

ui: $(BIN)/.installed  ## MLflow's UI on localhost:5000, with links to runs and versions
	python -m serving.ui

try: $(BIN)/.installed  ## search page on localhost:8501: champion and challenger side by side
	python -m serving.demo

services: $(BIN)/.installed  ## MLflow on PostgreSQL and S3, on localhost:5000
	python -m registry.local_stack

COMMIT := $(shell git rev-parse HEAD 2>/dev/null)
IMAGE ?= vitrine
# `cpu` takes PyTorch without CUDA from PyTorch's own index. If that cannot be reached, `make image TORCH_BACKEND=` takes
# PyTorch from the package index; on x86-64 it includes CUDA.
TORCH_BACKEND ?= cpu
BUILD = docker build $(BUILD_FLAGS) --build-arg COMMIT=$(COMMIT) --build-arg TORCH_BACKEND=$(TORCH_BACKEND)

image: image-cpu image-cuda image-serving  ## container images, targets cpu, cuda, serving; IMAGE=HOST/NAME names them
image-cpu:  ## only the image without CUDA, for a cluster without GPUs
image-cuda:  ## only the image with CUDA
image-serving:  ## only the image of the search service
image-cpu image-cuda image-serving: image-%:
	$(BUILD) --target $* --tag $(IMAGE):$(COMMIT)-$* .
	@docker image ls --no-trunc --filter 'reference=$(IMAGE):$(COMMIT)-$*' --format '{{.Repository}}:{{.Tag}}  {{.ID}}  {{.Size}}'

test-image: TORCH_BACKEND =
test-image:  ## image for tests marked `docker`; same PyTorch as here, so that metrics are the same
	$(BUILD) --target cpu --tag vitrine:test .

deps: $(BIN)/.installed  ## write the code dependencies of each stage into dvc.yaml
	python -m pipelines.code_deps

shop: $(BIN)/.installed  ## write the chain of a further shop, SHOP=NAME, into shops/NAME; again after `make deps`
	python -m pipelines.shops shops/$(SHOP)

lock: $(BIN)/.installed  ## pin the newest compatible versions
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra bench --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links --no-emit-package vitrine-judge --upgrade pyproject.toml --output-file requirements.lock

# GHSA-w8v5-vhqr-4h9v: see CONTRIBUTING.md.
audit: $(BIN)/.installed  ## check the pins for vulnerabilities and the files for secrets
	uv tool run pip-audit --requirement requirements.lock --disable-pip --no-deps --ignore-vuln GHSA-w8v5-vhqr-4h9v
	git ls-files -z | xargs -0 uv tool run --from detect-secrets detect-secrets-hook \
	  --exclude-files '^(data-remote|tests)/' --exclude-secrets ABCDEFGHJKLMNPQRSTUVWXYZ

clean:  ## remove all results and caches; keep the environment and the data
	rm -rf artifacts mlruns mlartifacts mlflow.db .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
