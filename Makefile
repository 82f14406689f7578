# The house in one screen. `make demo` and `make test` are all a newcomer needs: both make their
# own virtual environment first, and once it stands no target touches the network.
#
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu   small torch, Linux without a GPU

.PHONY: help venv demo test test-full fuzz check bench docs clean
.DEFAULT_GOAL := help

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.stamp
TORCH_INDEX ?=
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
WORKERS ?= 2

# One computing thread per process: repeatable, and faster when several processes share the cores.
export OMP_NUM_THREADS := 1
# Tests and docs never reach for the network.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# Where tests look for data that does not ship; those that need it skip when it is not there.
export PEFTLAB_DATA ?= $(abspath ../shared/data)
PYTEST := $(OFFLINE) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

help:
	@echo 'make demo       set up, then the tour; ends with a report'
	@echo 'make test       set up, then the tests (no network, no GPU)'
	@echo 'make test-full  the slow proofs too'
	@echo 'make fuzz       parsers against bytes from outside, FUZZ_SECONDS of processor time each'
	@echo 'make check      lint, format, types, import arrows'
	@echo 'make bench      the performance claims, measured here'
	@echo 'make docs       the generated pages, then the site in site/'
	@echo 'make venv       the set-up alone'
	@echo 'make clean      remove what can be made again, except runs/'

venv: $(STAMP)

# PYTHON=... chooses another interpreter; else the first that is new enough.
$(STAMP): pyproject.toml constraints.txt
	@python=$${PYTHON:-$$(for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; \
	done)}; \
	test -n "$$python" || { echo 'error: no Python 3.11 or newer found; set PYTHON=' >&2; exit 2; }; \
	test -x $(BIN)/python || $$python -m venv $(VENV) || \
	    { rm -rf $(VENV); echo 'error: no venv; on Debian: apt install python3-venv' >&2; exit 2; }
	@echo 'setting up $(VENV): once, a few minutes' >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(INDEX) \
	    --constraint constraints.txt setuptools
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(INDEX) \
	    --constraint constraints.txt --no-build-isolation --editable '.[test,check,docs]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/peftlab demo --out runs/demo --workers $(WORKERS)
	@echo
	@echo 'open     $(CURDIR)/runs/demo/report.html'
	@echo 'numbers  $(CURDIR)/runs/demo/results.json'

test: $(STAMP)
	@$(PYTEST) -m 'not full'

test-full: $(STAMP)
	@$(PYTEST) --timeout 7200

# Needs Linux or macOS, and atheris, which is not part of the set-up.
FUZZ_SECONDS ?= 450
fuzz: $(STAMP)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
	    { echo "error: no atheris; run $(BIN)/python -m pip install 'atheris>=3'" >&2; exit 2; }
	@$(BIN)/python tests/fuzz/run_fuzz.py --cpu-seconds $(FUZZ_SECONDS) --out runs/fuzz
	@$(BIN)/python tests/fuzz/keep_corpus.py runs/fuzz

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	@for file in $(sort $(wildcard benchmarks/claim_*.py)); do \
	    echo "== $$file"; $(OFFLINE) $(BIN)/python $$file || exit 1; done

docs: $(STAMP)
	$(OFFLINE) $(BIN)/python docs/generate.py
	$(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist site src/*.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
