# The two commands of the README are `make demo` and `make test`; the rest is for whoever works on renewer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SECONDS_OF_SOAK ?= 600
TEST_PROCESSES ?= auto
JUDGES := $(VENV)/judges

.DEFAULT_GOAL := help
.PHONY: help demo demo-gateway dev test check imports fmt unit cover soak kill judges deploy-test bench \
	bench-quick openapi events constraints clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## from nothing: environment, install, the daemon at work against the emulator
	$(BIN)/renewer demo $(ARGS)

demo-gateway: $(VENV)/.run ## the same worker with the gateway and without it: one keeps its lock, one loses it
	$(BIN)/renewer demo --gateway $(ARGS)

dev: $(VENV)/.dev ## the environment with everything for development

test: check unit ## every check and every test

check: $(VENV)/.dev imports ## ruff, mypy, basedpyright, import rules, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright --level error
	$(BIN)/codespell

imports: $(VENV)/.dev ## who may import whom
	$(BIN)/lint-imports

unit: $(VENV)/.dev ## the tests alone, a file at a time on each core; TEST_PROCESSES=0 for one process
	$(BIN)/python -m pytest -m "not soak and not deploy" -n $(TEST_PROCESSES) --dist loadfile

cover: $(VENV)/.dev ## branch coverage
	$(BIN)/coverage run -m pytest -m "not soak and not deploy" -q
	$(BIN)/coverage report

soak: $(VENV)/.dev ## minutes of real time under faults; SECONDS_OF_SOAK=600
	RENEWER_SOAK_SECONDS=$(SECONDS_OF_SOAK) $(BIN)/python -m pytest -m soak -s

kill: $(VENV)/.dev ## the daemon killed -9 at random moments, 200 times; six minutes
	RENEWER_KILLS=$${RENEWER_KILLS:-200} $(BIN)/python -m pytest tests/killing tests/registry/test_sqlite_kill.py -s

judges: $(JUDGES)/.done ## the daemon against public LRO servers, SDKs and a broker of others; needs node 20 and npm
	$(BIN)/python -m pytest tests/judges tests/gateway/judges -s -m "not soak"

deploy-test: $(VENV)/.dev ## what is under deploy/, as its users run it: systemd, podman, Prometheus; as root, on Debian
	if [ "$$(id -u)" = 0 ]; then deploy/install-test-tools.sh $(VENV)/deploy; fi
	PATH="$(CURDIR)/$(VENV)/deploy/bin:$$PATH" $(BIN)/python -m pytest -m deploy tests/deploy -rs

bench: $(VENV)/.dev ## beside what does the same work today, in one run; PARTS="sessions gateway" for some of it
	$(BIN)/python -m benchmarks $(PARTS)

bench-quick: $(VENV)/.dev ## the same, once and small; under two minutes
	$(BIN)/python -m benchmarks --quick $(PARTS)

fmt: $(VENV)/.dev ## format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: $(VENV)/.dev ## write down what the control API takes and answers
	$(BIN)/python -m renewer.api > renewer/api/openapi.json.new && mv renewer/api/openapi.json.new renewer/api/openapi.json

events: $(VENV)/.dev ## write down every log line and every event
	$(BIN)/python -m docs.eventlist > docs/events.md.new && mv docs/events.md.new docs/events.md

constraints: $(VENV)/.dev ## pin everything anew
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --no-emit-index-url --no-header --python-version 3.11 \
		--upgrade --group dev pyproject.toml -o constraints.txt

clean: ## remove the environment and what tools left behind
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage .benchmarks

$(VENV)/.pip:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "renewer needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.run: $(VENV)/.pip pyproject.toml constraints.txt
	@echo "installing what renewer needs into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.pip pyproject.toml constraints.txt
	@echo "installing everything for development into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . --group dev
	@touch $@

$(JUDGES)/.done: $(VENV)/.dev
	@echo "installing the servers that judge into $(JUDGES)"
	mkdir -p $(JUDGES)
	npm install --prefix $(JUDGES) --no-save --no-package-lock --no-audit --no-fund --loglevel=error \
		@microsoft.azure/autorest.testserver@3.3.51 \
		@azure-tools/azure-http-specs@0.1.0-alpha.38-dev.2 @typespec/spector@0.1.0-alpha.24-dev.2 \
		@azure/service-bus@7.9.5 rhea@3.0.5
	@touch $@
