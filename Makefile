# Two commands do all the set-up: `make serve` and `make test`. `make` lists the rest.
SPEC := $(or $(SPEC),$(shell sed -n 's/^spec: //p' env.yaml))
PORT ?= 5000
HOST ?= 127.0.0.1
PYTHON ?= python3
BIN := .venv/bin
# The installer, in the version that the lock names
UV := $(shell sed -n 's/^uv==\([^ ;]*\).*/\1/p' requirements.lock)
# Wheels that no index has
VENDOR := $(if $(wildcard vendor),--find-links vendor)
# What a serving image installs, beside the packages of serve/requirements.lock: the framework and the folder of its wheel
FRAMEWORK := mlops-nb
WHEELS := vendor
IMAGE ?= $(notdir $(CURDIR))
export PLOOMBER_STATS_ENABLED := false
# Python compiles a module when it is imported for the first time, and keeps what it has compiled, whatever the environment says
export PYTHONDONTWRITEBYTECODE :=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help optional serve build lab test check export hooks image clean lock

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  SPEC=$(SPEC)  PORT=$(PORT)  HOST=$(HOST)"

INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python $(VENDOR) --require-hashes
# The lock without the packages that requirements.later names
NEEDED := awk 'NR == FNR {later[$$1]; next} /^[a-z0-9]/ {name = $$1; sub(/[=[].*/, "", name); skipped = name in later} !skipped'

# One stamp says that .venv holds what building and serving need of the lock
.venv/installed: requirements.lock requirements.later settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=python3.12, say."; exit 1; }
	@echo "Installing what building and serving need into .venv, from requirements.lock"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV)
	@$(NEEDED) requirements.later requirements.lock > .venv/needed.lock
	@$(INSTALL) -r .venv/needed.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# Another stamp says that it holds all that the lock names: JupyterLab and what tests need, too
.venv/complete: .venv/installed
	@echo "Installing the rest of requirements.lock"
	@$(INSTALL) --compile-bytecode -r requirements.lock
	@touch $@

optional: .venv/complete ## install what locks/ has: libraries of models that not everybody needs
	@for lock in $(wildcard locks/*.lock); do \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r $$lock || exit 1; done

serve: .venv/installed ## run the pipeline for SPEC, then serve its model at http://HOST:PORT
	@mlops-nb serve --check --host $(HOST) --port $(PORT)
	@ploomber build --env--spec $(SPEC)
	@exec mlops-nb serve --spec $(SPEC) --host $(HOST) --port $(PORT)

build: .venv/installed ## run the pipeline for SPEC (ploomber build, with the options in BUILD)
	@ploomber build --env--spec $(SPEC) $(BUILD)

lab: .venv/complete ## open JupyterLab on the notebooks
	@jupyter lab

# OpenMP threads of several processes that wait for each other cost more than they bring
test check: export OMP_NUM_THREADS := 1

# Files of tests side by side, the tests of a file one after the other
PARALLEL := -n auto --dist loadfile
TESTS := not soak and not nightly
# What a project may add: a check of types (TYPES = mypy), options of coverage
TYPES :=
COVERAGE :=
test: .venv/complete ## run every check: ruff, mlops-nb check, pytest, nbval on library and executed notebooks
	ruff check .
	mlops-nb check
	$(TYPES)
	pytest tests $(PARALLEL) -m "$(TESTS)" $(COVERAGE)
	pytest --nbval-lax --nbval-current-env -p no:cacheprovider $(PARALLEL) nbs --ignore=nbs/pipeline
	@echo 'All checks passed.'

check: .venv/complete ## the fast half of the tests, under a minute
	ruff check .
	mlops-nb check
	$(TYPES)
	pytest tests $(PARALLEL) -m "not slow and not nightly" -q

export: .venv/installed ## notebooks to library: nbdev_export, nbdev_clean
	@nbdev_export
	@nbdev_clean

hooks: .venv/installed ## install the git hooks in this clone: notebooks are merged by cell, and checked before a commit
	@HOME=$$(mktemp -d) nbdev_install_hooks
	@cp .githooks/pre-commit .git/hooks/pre-commit

image: ## build the image that serves, with Docker (TARGET=pipeline: the one that builds models; TARGET=cuda: the one for GPUs)
	docker build --file serve/Dockerfile --target $(or $(TARGET),serve) --build-arg WHEELS=$(WHEELS) --tag $(IMAGE) .

clean: ## remove what a build and the tests made; models and runs in store/ stay
	rm -rf products build dist _proc .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage .coverage.* *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

COMPILE = $(BIN)/uv pip compile $(VENDOR) --universal --python-version 3.11 --generate-hashes --no-strip-extras \
  --no-emit-index-url --custom-compile-command "make lock" --quiet
# Extras that a serving image has
SERVING := serve,postgres,s3,alerts
# Extras with a lock of their own, beside requirements.lock and in agreement with it
OPTIONAL := $(basename $(notdir $(wildcard locks/*.lock)))
# Extras without a lock, or with one elsewhere
UNLOCKED := torch site
EXTRAS := $(filter-out $(OPTIONAL) $(UNLOCKED),$(shell sed -n 's/^\([a-z0-9-]*\)_requirements *=.*/\1/p' settings.ini))
# Packages and extras that building and serving do without
LATER_PACKAGES := jupyterlab jupyter-server-proxy
LATER_EXTRAS := dev scale
NAMES := sed -n 's/^\([a-z0-9-]*\)[^ ]*==.*/\1/p'
lock: ## write requirements.lock anew from the bounds in settings.ini, and of it what serving needs
	@$(COMPILE) setup.py $(addprefix --extra ,$(EXTRAS)) -o requirements.lock
	@printf '%s\n' $(LATER_PACKAGES) > .venv/excluded
	@$(COMPILE) setup.py $(addprefix --extra ,$(filter-out $(LATER_EXTRAS),$(EXTRAS))) --constraint requirements.lock \
	  --excludes .venv/excluded -o .venv/needed.lock
	@$(NAMES) .venv/needed.lock | sort -u > .venv/needed && $(NAMES) requirements.lock | sort -u | comm -23 - .venv/needed > requirements.later
	@for extra in $(OPTIONAL); do \
	  sed -n "/^$${extra}_requirements/,/^$$/s/^    //p" settings.ini | grep -v '^#' | \
	  $(COMPILE) - --constraint requirements.lock -o locks/$$extra.lock || exit 1; done
	@echo '$(FRAMEWORK)[$(SERVING)]' | \
	  $(COMPILE) - --constraint requirements.lock --no-emit-package mlops-nb -o serve/requirements.lock
	@sed -n 's/^onnxruntime==\([^ ;]*\).*/onnxruntime-gpu[cuda,cudnn]==\1/p' requirements.lock | \
	  $(COMPILE) - --constraint requirements.lock -o serve/requirements-cuda.lock

-include development.mk
