# Everything a developer runs. `make help` lists it; each target sets up what it needs first.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
# The same with SQLAlchemy 2.0, to measure emit there too.
OLD := build/sqlalchemy-2.0
BIN := $(VENV)/bin
# The first interpreter that runs and is new enough; `make PYTHON=/path/to/python …` names another.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(p))))
# Where the virtual environment could be made only without pip, the interpreter's own pip installs into it.
pip = $(shell test -x $(1)/bin/pip && echo $(1)/bin/python -m pip \
	|| echo $(PYTHON) -m pip --python $(1)/bin/python) --disable-pip-version-check --quiet
PYTEST_ARGS ?=
# Two processes, each with servers of its own: most of the time a test waits. Empty for one.
PARALLEL ?= -n 2 --dist loadfile
BENCH_ARGS ?=

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python $(OLD)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one by: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "making $(@:/bin/python=) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(@:/bin/python=) 2>/dev/null || $(PYTHON) -m venv --clear --without-pip $(@:/bin/python=)

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "installing the package"
	@$(call pip,$(VENV)) install --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing the package and the development tools"
	@$(call pip,$(VENV)) install --editable '.[dev]'
	@touch $(VENV)/.runtime $@

$(OLD)/.runtime: pyproject.toml | $(OLD)/bin/python
	@echo "installing the package with SQLAlchemy 2.0"
	@$(call pip,$(OLD)) install --editable . 'sqlalchemy<2.1'
	@touch $@

.PHONY: install
install: $(VENV)/.dev ## make .venv with the package (editable) and the development tools

.PHONY: demo
demo: $(VENV)/.runtime ## the main job on SQLite and memory; needs Python alone
	@$(BIN)/outbox demo

.PHONY: demo-kafka
demo-kafka: $(VENV)/.runtime ## the same on a real PostgreSQL and a real Kafka
	@$(BIN)/python -m tools.servers --fetch --postgres --kafka -- $(BIN)/outbox demo --kafka

.PHONY: example
example: $(VENV)/.dev ## examples/shop on real servers: one event to Kafka, ActiveMQ, S3 and memory
	@$(BIN)/python -m tools.servers --fetch --postgres --kafka --activemq --s3 -- $(BIN)/python -m tools.example

.PHONY: servers
servers: $(VENV)/.runtime ## get what the test servers need: Kafka, ActiveMQ, S3Proxy and Apicurio Registry, and Debian's packages when root
	@$(BIN)/python -m tools.servers --fetch

.PHONY: schema-check
schema-check: $(VENV)/.runtime ## fail where an event of examples/shop changed in a way that breaks its readers or writers
	@cd examples/shop && $(CURDIR)/$(BIN)/outbox schema check --app shop --app shop_v1 --against schemas

.PHONY: lint
lint: $(VENV)/.dev schema-check ## ruff, the formatter's check, mypy --strict, and schema-check
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

.PHONY: test
test: $(VENV)/.dev servers ## all tests but the slow ones, on real servers (PYTEST_ARGS adds arguments)
	@$(BIN)/pytest -m "not slow" $(PARALLEL) $(PYTEST_ARGS)

.PHONY: test-full
test-full: $(VENV)/.dev servers ## all tests
	@$(BIN)/pytest $(PYTEST_ARGS)

.PHONY: coverage
coverage: $(VENV)/.dev servers ## tests with branch coverage of outbox/ and relay/
	@$(BIN)/pytest -m "not slow" --cov --cov-report=term $(PYTEST_ARGS)

.PHONY: bench
bench: $(VENV)/.dev $(OLD)/.runtime ## all figures of docs/performance.md on real servers, into build/bench (BENCH_ARGS adds arguments)
	@$(BIN)/python -m tools.servers --fetch --postgres --kafka -- $(BIN)/python -m benchmarks $(BENCH_ARGS)

.PHONY: bench-emit-20
bench-emit-20: $(VENV)/.dev $(OLD)/.runtime ## what emit costs on SQLAlchemy 2.0, of the same figures
	@$(BIN)/python -m tools.servers --fetch --postgres -- $(BIN)/python -m benchmarks emit-2.0 $(BENCH_ARGS)

.PHONY: performance
performance: $(VENV)/.dev ## write the figures in build/bench into docs/performance.md, with its pictures, and the guide
	@$(BIN)/python -m benchmarks.page

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf $(VENV) .cache .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make lint test` lints first, so that the last line is the tests' summary.
.NOTPARALLEL:
