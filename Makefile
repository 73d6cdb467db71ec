# The commands of this project. `make quickstart` and `make test` are the two in the README.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart install test lint types unit crash faults soak fuzz audit secrets docs screenshots clean

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

faults: $(VENV)/.dev  ## let every single write of a small run fail, in every way
	OMP_NUM_THREADS=1 $(BIN)/python scripts/faults.py --out runs/faults

soak: $(VENV)/.dev  ## run streams for eight hours while everything goes wrong
	OMP_NUM_THREADS=1 $(BIN)/python scripts/soak.py --hours 8 --out runs/soak

fuzz: $(VENV)/.dev  ## a million damaged and hostile files through every reader; goes on where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python scripts/fuzz.py --out runs/fuzz

audit: $(VENV)/.dev  ## known weaknesses of what is installed; needs a network, and says so when it has none
	$(BIN)/python scripts/audit.py

secrets: $(VENV)/.dev  ## keys and passwords in the files of this repository; .secrets.baseline has what was looked at
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline

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
