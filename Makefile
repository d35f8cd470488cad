PYTHON ?= python3
JOBS ?= 1
BIN := .venv/bin
# Made last, so that an installation that was interrupted is begun again.
INSTALLED := .venv/installed

.PHONY: setup train test check capabilities pictures bench bench-check tensorboard clean

setup: $(INSTALLED)  ## make the environment

$(INSTALLED): requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or later is needed, and $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12" if v < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

train: setup  ## train a ResNet on digits, then test it
	$(BIN)/python train.py fit --config configs/digits.yaml

test: check  ## lint, types and tests
	$(BIN)/python -m pytest

check: setup  ## lint and types alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

capabilities: setup  ## write docs/capabilities.md from the conformance suite
	$(BIN)/python -m tests.norms.capabilities

pictures: setup  ## draw docs/pictures, TensorBoard's with Chromium
	$(BIN)/python -m tests.pictures
	$(BIN)/python docs/axes.py

study-%: setup  ## run a study of configs/studies, JOBS=2 runs at once, and put its table and figure into docs/studies
	$(BIN)/python compare.py --study configs/studies/$*.yaml --jobs $(JOBS)
	mkdir -p docs/studies
	cp runs/compare/$*/chart.png docs/studies/$*.png
	sed 's/(chart\.png)/($*.png)/' runs/compare/$*/table.md > docs/studies/$*.md

bench: setup  ## measure speed and memory, and write docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-check: setup  ## fail where a norm has become slower than it was meant to be
	$(BIN)/python -m benchmarks.check

tensorboard: setup  ## watch the runs
	$(BIN)/tensorboard --logdir runs

clean:  ## remove the environment and caches; runs and data stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache data/cache
