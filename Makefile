PYTHON ?= python3
JOBS ?= 1
MINUTES ?= 10
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
# An installation touches its file last, so that an interrupted installation starts again.
TRAIN := .venv/train
DEV := .venv/dev
# Raise both versions together by hand, after `make test-newest` has passed.
TORCH := -P torch==2.14.1 -P torchvision==0.29.1
LOCK := .venv-lock/$(notdir $(BIN))/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" --upgrade $(TORCH)

.PHONY: setup train test test-quick check lock test-lowest test-newest capabilities backbones fuzz pictures bench bench-check \
	tensorboard clean

setup: $(TRAIN)  ## create the environment for training from the lock

$(TRAIN): locks/train.txt
	$(PYTHON) scripts/environment.py train

$(DEV): locks/dev.txt
	$(PYTHON) scripts/environment.py dev

train: setup  ## train a ResNet on digits, then test it
	$(BIN)/python train.py fit --config configs/digits.yaml

test: check  ## lint, check types, and run the tests
	$(BIN)/python -m pytest

check: $(DEV)  ## lint and check types, without tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --quiet .github

# The quick tests exclude tests of the kernels, which need a C++ compiler, and runs of several processes.
QUICK := tests/data tests/models/test_recipe.py tests/models/test_small_models.py tests/norms/test_padding.py \
	tests/norms/test_properties.py tests/norms/test_swap.py tests/test_environment.py tests/cli/test_mistakes.py

test-quick: $(DEV)  ## run tests for a few minutes, on systems that the whole suite does not support
	$(BIN)/python -m pytest $(QUICK)

lock:  ## write the newest versions in the ranges to locks/, for all systems and Python versions
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/$(notdir $(BIN))/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/uv.txt
	$(LOCK) --group uv --output-file locks/uv.txt
	$(LOCK) requirements.txt --group dev --output-file locks/dev.txt
	$(LOCK) requirements.txt --constraint locks/dev.txt --output-file locks/train.txt

test-lowest test-newest: test-%:  ## run the tests with the lowest or the newest versions in the ranges
	$(PYTHON) scripts/environment.py $*
	.venv-$*/$(notdir $(BIN))/python -m pytest

capabilities: $(DEV)  ## write docs/capabilities.md from the conformance suite
	$(BIN)/python -m tests.norms.capabilities

backbones: $(DEV)  ## write docs/backbones.md: which norm fits which backbone
	$(BIN)/python -m tests.models.backbones

fuzz: $(DEV)  ## compare random layers with torch's for MINUTES=10, with every backend
	$(BIN)/python -m tests.norms.fuzz --minutes $(MINUTES)

pictures: $(DEV)  ## draw docs/pictures; the pictures of TensorBoard need Chromium
	$(BIN)/python -m tests.helpers.readme_pictures
	$(BIN)/python docs/axes.py

study-%: setup  ## run a study of configs/studies and copy its table and figure to docs/studies; JOBS=2 for two runs at once
	$(BIN)/python compare.py --study configs/studies/$*.yaml --jobs $(JOBS)
	mkdir -p docs/studies
	cp runs/compare/$*/chart.png docs/studies/$*.png
	sed 's/(chart\.png)/($*.png)/' runs/compare/$*/table.md > docs/studies/$*.md

bench: setup  ## measure speed and memory, and write docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-check: setup  ## fail if a norm is slower than its limit
	$(BIN)/python -m benchmarks.limits

tensorboard: setup  ## show the runs in TensorBoard
	$(BIN)/tensorboard --logdir runs

clean:  ## remove the environments and caches, but not runs and data
	rm -rf .venv .venv-lock .venv-lowest .venv-newest .mypy_cache .pytest_cache .ruff_cache data/cache
