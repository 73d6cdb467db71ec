# The commands of this project. `make quickstart` and `make test` are the two in the README.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart install test lint types unit crash docs screenshots clean

quickstart: $(VENV)/.installed  ## install, fetch smol and parcel, teach five tasks with three methods
	$(BIN)/evertune fetch smol parcel
	$(BIN)/evertune run parcel --model smol --method sequential,replay,eproj --out runs/quickstart

install: $(VENV)/.installed  ## the package with all it needs to run

test: $(VENV)/.dev lint types  ## everything that must be green; a process per core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev  ## the tests that take seconds
	$(BIN)/python -m pytest tests/unit

docs: $(VENV)/.dev  ## docs/ as a site in build/site; without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

screenshots: $(VENV)/.dev  ## every picture in docs/images anew, from small fixed inputs
	$(BIN)/python scripts/screenshots.py

crash: $(VENV)/.dev  ## kill small runs 200 times at random moments; each must end with the same bits
	OMP_NUM_THREADS=1 $(BIN)/python scripts/crash.py --kills 200 --out runs/crash

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	sh scripts/install_torch.sh $(BIN)/python
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[smol]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
