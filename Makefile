# The commands of this project. `make quickstart` and `make test` are the two in the README.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The release of PyTorch in constraints.txt: the one with which the tables in docs/ were measured.
TORCH := 2.13.0

.PHONY: quickstart real install test test-all test-bfloat16 test-newest test-lowest lock lint types unit coverage crash crash-commands faults soak fuzz fuzz-http audit secrets docs screenshots dist sbom clean

quickstart: $(VENV)/.installed  ## install, and train a miniature model on nine tasks with five methods
	$(BIN)/evertune run pocket-mini --model tiny-aligned --method sequential,replay,ewc,tir+ewc,eproj \
		--set train.batch_size=6 --set dtype=float32 --out runs/quickstart
	@echo "next: make real (a pretrained model, real data, 20 minutes), or your own data: docs/data.md"

real: $(VENV)/.installed  ## install, fetch smol and parcel, train a pretrained model on five tasks with three methods
	$(BIN)/evertune fetch smol parcel
	$(BIN)/evertune run parcel --model smol --method sequential,replay,eproj --set dtype=float32 --out runs/real

install: $(VENV)/.installed  ## the package with all it needs to run

test: $(VENV)/.dev lint types  ## what must be green before every change; a process per core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not thorough' -n auto --dist worksteal

test-all: $(VENV)/.dev lint types  ## all tests: before a release, and after a change to the loop, a family or the contract
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test-bfloat16: $(VENV)/.dev  ## the same where dtype=auto takes bfloat16, as it does on a processor that is made for it
	EVERTUNE_AUTO_DTYPE=bfloat16 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not thorough' -n auto --dist worksteal

test-newest: ## the same on the newest release of every dependency, also beyond the ranges in pyproject.toml
	sh scripts/test_set.sh newest $(PYTHON)

test-lowest: ## the same on the lowest version of every dependency that pyproject.toml allows
	sh scripts/test_set.sh lowest $(PYTHON)

lock: $(VENV)/.dev ## constraints.txt anew: the newest versions within the ranges of pyproject.toml, for every Python and system
	$(BIN)/python -m pip install --quiet 'uv>=0.9'
	printf 'torch==$(TORCH)\n' >$(VENV)/torch.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-annotate \
		--custom-compile-command 'make lock' --constraint $(VENV)/torch.txt pyproject.toml --output-file constraints.txt

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev  ## the quick tests of tests/unit: a minute on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -m 'not slow and not smol and not thorough' -n auto --dist worksteal

coverage: $(VENV)/.dev  ## the suite again, and how much of src/ it runs (lines and branches): a figure, not a gate
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n auto --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

docs: $(VENV)/.dev  ## docs/ as a site in build/site; without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

screenshots: $(VENV)/.dev  ## every image in docs/images anew, from small fixed inputs
	$(BIN)/python scripts/screenshots.py

crash: $(VENV)/.dev  ## kill small runs 200 times at random moments; each must end with the same bits
	OMP_NUM_THREADS=1 $(BIN)/python scripts/crash.py --kills 200 --out runs/crash

crash-commands: $(VENV)/.dev  ## kill run, learn, grid and two ranks 100 times; each must end with the same files
	OMP_NUM_THREADS=1 $(BIN)/python scripts/crash_commands.py --kills 100 --out runs/crash-commands

faults: $(VENV)/.dev  ## let every single write of a small run fail, in every way
	OMP_NUM_THREADS=1 $(BIN)/python scripts/faults.py --out runs/faults

soak: $(VENV)/.dev  ## run streams for eight hours while everything goes wrong
	OMP_NUM_THREADS=1 $(BIN)/python scripts/soak.py --hours 8 --out runs/soak

fuzz: $(VENV)/.dev  ## a million damaged and hostile files through every reader; goes on where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python scripts/fuzz.py --out runs/fuzz

fuzz-http: $(VENV)/.dev  ## 110,000 hostile requests to serve and app; resumes where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python scripts/fuzz_http.py --out runs/fuzz-http

audit: $(VENV)/.dev  ## known weaknesses of what is installed; needs a network, and says so when it has none
	$(BIN)/python scripts/audit.py

secrets: $(VENV)/.dev  ## keys and passwords in the files of this repository; .secrets.baseline has what was looked at
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline

dist: $(VENV)/.dev  ## wheel and source archive in dist/, their contents, sizes and version checked; TAG=v0.1.0: against a tag
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist
	$(BIN)/python scripts/check_dist.py dist --tag "$(TAG)"

sbom: $(VENV)/.dev  ## dependencies, fetched packages and shipped weights with licences and checksums: build/sbom.json
	$(BIN)/python scripts/sbom.py build/sbom.json --extras smol,data,serve,app

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	sh scripts/install_torch.sh $(BIN)/python
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[smol]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
