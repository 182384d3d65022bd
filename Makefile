# What a person types. Everything else is behind `stoa --help` and `python -m workers.local --help`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: install
install: ## Make the virtual environment (everything does this by itself)
	@$(PYTHON) deploy/bootstrap.py platform

.PHONY: dev
dev: ## Make it with the tools for tests and checks
	@$(PYTHON) deploy/bootstrap.py dev

.PHONY: up
up: install ## Start everything here, up to a first answer; Ctrl-C stops it (MODEL=… names a model)
	@$(BIN)/python -m workers.local up

.PHONY: evidence-demo
evidence-demo: install ## A bundle of each kind of what runs here, checked alone (OUT=folder)
	@$(BIN)/python -m workers.local stoa evidence demo --out $(or $(OUT),var/evidence-demo) $(ARGS)

# Two: one has the flows, the other all else. With three, two more groups with agents of their own ran
# side by side, and engines were killed under tests.
.PHONY: test
test: dev ## Run every test
	@$(BIN)/python tests/prepare.py
	@$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

.PHONY: check
check: dev ## Format, lint, types, import walls
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

.PHONY: format
format: dev ## Let ruff put things right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: dev ## Run one benchmark: make bench NAME=coldstart ARGS="…"
	@test -n "$(NAME)" || { echo "NAME= one of: $$(cd tests/benchmarks && ls *.py | sed 's/\.py//' | xargs)"; exit 2; }
	@$(BIN)/python -P tests/benchmarks/$(NAME).py $(ARGS)

.PHONY: stripe-test-mode
stripe-test-mode: dev ## Try the Stripe adapter in Stripe's test mode (STRIPE_TEST_KEY=sk_test_…)
	@$(BIN)/python -m tests.stripe_server.flow

.PHONY: erasure-canary
erasure-canary: dev ## Plant words everywhere, erase, and look for each in stores and backups
	@$(BIN)/pytest -q tests/workers/test_erasure_canary.py $(ARGS)

.PHONY: demo-month
demo-month: dev ## A month of 200 companies, from usage to paid invoices that are checked
	@$(BIN)/python -P -m tests.month.story $(ARGS)

.PHONY: lock
lock: dev ## Draw the locks anew (requirements/README.md)
	@$(BIN)/python requirements/lock.py

.PHONY: clean
clean: ## Remove what can be made again (var/ stays: it holds your data)
	rm -rf .venv .bootstrap .mypy_cache .ruff_cache .pytest_cache .hypothesis
