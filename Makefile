# What one does here, each a line of `make help`. The work is done by the scripts these name.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PYTHON

BIN := .venv/bin
SOURCES := agents schemas streams deploy tests
STACK := $(BIN)/python -m deploy.local.stack
NEEDS_A_BROKER := tests/integration tests/faults tests/operations
LOCK := $(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
	--generate-hashes --no-annotate --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

.PHONY: help setup demo up down test check tests-without-broker fuzz chaos lint format \
	types evaluate lock manifests bench bench-api clean

help: ## list the targets
	@echo 'check-dedup: have we seen this picture before, which one, and how sure are we?'
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | \
		while IFS='|' read -r name text; do printf '%-14s %s\n' "$$name" "$$text"; done
	@echo
	@echo 'PYTHON=/path/to/python3.11 chooses the Python that .venv is made with.'
	@echo 'KAFKA_BOOTSTRAP_SERVERS=host:port uses that Kafka instead of starting one.'

setup: ## make .venv from the lock file (done by every other target, instant when up to date)
	@sh deploy/local/setup.sh

demo: setup ## see it work from end to end on a Kafka of its own
	@$(BIN)/python -m deploy.local.demo

up: setup ## start Kafka (port 9092, or KAFKA_PORT=...), hasher, matcher, API; also Prometheus
	@$(STACK) up

down: setup ## stop what `make up` started; its data stays
	@$(STACK) down

test: ## everything: check, then the tests on a real Kafka, then with faults injected
	@bash tests/run_all.sh

check: setup ## ruff, mypy and every test that needs no broker; before each commit
	@$(MAKE) --keep-going lint types tests-without-broker

tests-without-broker: setup  # schemathesis is for the API's test, and takes 2 s to import
	@$(BIN)/python -m pytest --numprocesses auto --dist worksteal -p no:schemathesis \
		$(addprefix --ignore=,$(NEEDS_A_BROKER)) tests

fuzz: setup ## look for bytes that do harm, pictures and records in turn (SECONDS=60 each)
	@$(BIN)/python -m tests.fuzz.run pictures $(or $(SECONDS),60)
	@$(BIN)/python -m tests.fuzz.run records $(or $(SECONDS),60)

chaos: setup ## faults under load and a report (MINUTES=10 KILLS=0 RATE=50 EVERY=20 SEED=...)
	@$(BIN)/python -m tests.faults.chaos $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(KILLS),--kills $(KILLS)) $(if $(RATE),--rate $(RATE)) \
		$(if $(EVERY),--every $(EVERY)) $(if $(SEED),--seed $(SEED))

lint: setup ## ruff: rules and format
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)

format: setup ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

types: setup ## mypy, strict
	@$(BIN)/mypy $(SOURCES)

evaluate: setup ## match quality against other hashes (EVALUATION_IMAGES=folder, ..._OTHERS=folder)
	@$(BIN)/python -m streams.evaluation $(EVALUATION_IMAGES) $(EVALUATION_OTHERS)

lock: setup ## write the lock files from pyproject.toml (UPGRADE=1: newest versions)
	@$(LOCK) pyproject.toml --output-file requirements.lock
	@$(LOCK) pyproject.toml --extra dev --constraint requirements.lock \
		--output-file requirements-dev.lock
	@$(LOCK) deploy/k8s/policy/requirements.in --output-file deploy/k8s/policy/requirements.lock
	@$(MAKE) setup

manifests: setup ## write what deploy/k8s holds that is made from declarations
	@$(BIN)/python -m deploy.generate

bench: setup ## hasher, matcher and rebuild on a Kafka of its own, with a bare process pool beside
	@$(BIN)/python -m deploy.local.bench

bench-api: setup ## measure the HTTP API on a Kafka of its own
	@$(BIN)/python -m deploy.local.bench_api

clean: ## stop what `make up` started; remove .venv and build
	@test ! -x $(BIN)/python || $(STACK) down
	@rm -rf .venv build
