# Every target sets up .venv by itself; all that must be there is make and python3 >= 3.11 (PYTHON=python3.12 to choose).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Where the raw training data lies (see README, "Train").
DATA ?= ../shared/data
BENCH_CLIP ?= emollama/assets/sample/sample.mp4

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-ray check format serve train-nano finetune-demo bench bench-train clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python >= 3.11 is needed; choose one with make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt || { \
		echo "the tested versions of constraints.txt could not be installed here; trying any that pyproject.toml allows"; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; }
	@touch $@

setup: $(STAMP)  ## make .venv and install the project with its tools

demo: $(STAMP)  ## analyse the bundled clip
	@$(BIN)/emollama analyze emollama/assets/sample/sample.mp4 --transcript emollama/assets/sample/sample.txt

test: $(STAMP)  ## run the tests (CPU, no network)
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: $(STAMP)  ## run the tests that take longer
	$(BIN)/python -m pytest -q -m slow

test-ray: $(STAMP)  ## run the service's tests through Ray Serve, and kill replicas and a node (wants the extra `ray`)
	$(BIN)/python -m pytest -q tests/server -m "not slow" --ray
	$(BIN)/python -m pytest -q tests/server/ray -m slow

check: $(STAMP)  ## what CI runs: format, lint, types, import contract, tests with coverage
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m "not slow" --cov --cov-report=term

format: $(STAMP)  ## format the code and sort its imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

serve: $(STAMP)  ## run the HTTP service on this machine
	$(BIN)/emollama serve

train-nano: $(STAMP)  ## retrain the embedded model from the raw data (hours on two cores)
	$(BIN)/emollama train nano_face --data $(DATA)
	$(BIN)/emollama train nano_voice --data $(DATA)
	$(BIN)/emollama train nano_backbone --data $(DATA)
	$(BIN)/emollama train nano_align --data $(DATA)
	$(BIN)/emollama train nano_instruct --data $(DATA)
	$(BIN)/emollama train nano_calibrate --data $(DATA)

finetune-demo: $(STAMP)  ## fine-tune nano on EmoDB's boredom through the service; writes docs/logs/finetune-emodb.json
	$(BIN)/python tools/finetune_emodb.py --data $(DATA) --unheard-voice --json docs/logs/finetune-emodb.json

bench: $(STAMP)  ## measure latency, start-up and memory; writes docs/logs/bench.json
	$(BIN)/emollama bench $(BENCH_CLIP) --json docs/logs/bench.json

bench-train: $(STAMP)  ## measure training beside transformers' Trainer; writes docs/logs/bench-train.json
	$(BIN)/emollama bench train --json docs/logs/bench-train.json

clean:  ## remove caches and builds (keeps .venv and runs)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache htmlcov .coverage
	find emollama server train eval tests -name __pycache__ -type d -prune -exec rm -rf {} +
