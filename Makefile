# Needs Python ≥ 3.11, make and git. Everything else goes into .venv, at the versions of requirements.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install run demo test lint format protos bench

help: ## Say what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 12

install: $(INSTALLED) ## Make .venv with runengine-server and runengine in it

$(INSTALLED): requirements.txt pyproject.toml protos/compile_protos.py $(wildcard protos/runengine/v1/*.proto)
	@echo "Installing into .venv; this takes half a minute the first time." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(INSTALLED) ## Start everything on an embedded PostgreSQL
	@exec $(BIN)/runengine-server up

demo: $(INSTALLED) ## Take a campaign from its brief to its bundle, on free ports
	@$(BIN)/python -m runengine_server.demo

test: $(INSTALLED) ## Run all tests
	@$(BIN)/python -m pytest

lint: $(INSTALLED) ## Check style, types, import directions and protos
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint
	cd protos && ../$(BIN)/buf format --diff --exit-code --path runengine

format: $(INSTALLED) ## Put everything into the common style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	cd protos && ../$(BIN)/buf format --write --path runengine

protos: $(INSTALLED) ## Compile the protos again
	$(BIN)/python protos/compile_protos.py
