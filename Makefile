# Every command a developer or an operator needs. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export PORT ?= 8000
export WS_PORT ?= 8001
export CLOUD_PORT ?= 4566
unexport PYTHONDONTWRITEBYTECODE # some hundred processes of the tests would each compile all of the source again

.DEFAULT_GOAL := help
.PHONY: help setup run demo test test-slow simulate soak mutants check bench package functions stack layer outputs triggers deploy clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is written last and the folder is made anew without it, so a half-made environment heals itself.
$(READY): requirements.txt requirements-dev.txt infra/layer-requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "Tidemark needs Python 3.11 to 3.13, and '$(PYTHON)' is not on the PATH. Install it, or name yours: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "Tidemark needs Python 3.11 to 3.13; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "'$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Preparing $(VENV) (once; a minute or so) ..."
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $(READY)

setup: $(READY) ## make the virtual environment

run: $(READY) ## start everything here: cloud, REST, WebSocket (Ctrl-C stops it)
	@exec $(BIN)/python -m localcloud run

demo: $(READY) ## send realistic traffic to the running stack and compare the numbers (RATE=50 SECONDS=60)
	@$(BIN)/python -m demo

# A process for each core and one more, for some tests wait; those of a file share one, and so the stack that they start.
WORKERS = $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST = $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 10 --durations-min 1

test: $(READY) ## unit and end-to-end tests, but for the slow ones; names the ten that took longest
	@$(PYTEST) -m "not slow"

test-slow: $(READY) ## the tests that are left out there: large comparisons with other programs and plain readings
	@$(PYTEST) -m slow

simulate: $(READY) ## play random histories of the whole pipeline, each from its seed (SEEDS=5000 FIRST=0)
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),5000) --first $(or $(FIRST),0)

soak: $(READY) ## traffic with faults on a local cloud of its own, then an exact balance and a picture (MINUTES=10 RATE=300)
	@$(BIN)/python -m tests.soak

mutants: $(READY) ## plant bugs one by one and show that a test or the simulation catches each (ONLY=close JOBS=2)
	@$(BIN)/python -m tests.mutants --only "$(ONLY)" --jobs $(or $(JOBS),2)

check: $(READY) ## what CI runs before `make test-slow`: format, lint, types, import layers, tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(PYTEST) -m "not slow"

bench: $(READY) ## measure the stages, as ratios in one run, and what the anomaly detection finds
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.anomalies
	@$(BIN)/python -m benchmarks.lake

functions: $(READY) ## write what follows from infra/functions.py: configuration, policies, triggers, alarms, tasks
	@$(BIN)/python -m infra.write

package: $(READY) ## build the production package and check what is in it
	@$(BIN)/python -m infra.package

# No default: a command that changes an account names its stage.
NAMED_STAGE = $(or $(STAGE),$(error name the stage: make $@ STAGE=prod))

stack: $(READY) ## create or update a stage's resources (STAGE=prod)
	@$(BIN)/python -m infra.stack --stage $(NAMED_STAGE)

layer: $(READY) ## build and publish the lake layer (STAGE=prod)
	@$(BIN)/python -m infra.layer --stage $(NAMED_STAGE)

outputs: $(READY) ## record what the stack and the last deploy made in .chalice/config.json (STAGE=prod)
	@$(BIN)/python -m infra.outputs --stage $(NAMED_STAGE)

triggers: $(READY) ## apply infra/triggers.json to the deployed functions (STAGE=prod)
	@$(BIN)/python -m infra.triggers --stage $(NAMED_STAGE)

deploy: $(READY) ## all of it in order, with chalice deploy in the middle (STAGE=prod)
	@$(BIN)/python -m infra.deploy --stage $(NAMED_STAGE)

clean: ## remove the virtual environment and build output (state of the local cloud too)
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m localcloud forget; fi
	@rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
