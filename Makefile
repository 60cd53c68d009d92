# make demo   see it work: a small network, its skips removed exactly
# make test   everything CI runs

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# The setuptools pinned in constraints.txt builds the package, so no second one is downloaded.
INSTALL := $(PIP) install -qq --constraint constraints.txt
EDITABLE := $(INSTALL) --no-build-isolation --editable
PINS := pyproject.toml constraints.txt
JOBS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.runtime ## optimize a small residual network (installs what it needs into .venv)
	@mkdir -p build
	$(BIN)/graphopt optimize examples/models/digits_resnet.onnx --preset plain -o build/digits_resnet.plain.onnx
	$(BIN)/python examples/remove_skips.py examples/models/digits_mobilenetv2.onnx

# One BLAS and torch thread in each of the test processes: JOBS of them fill the cores.
test: lint ## lint, then run the tests and the coverage gate: what CI runs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --cov --cov-report=term

lint: $(VENV)/.dev ## ruff, mypy and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## sort imports, apply safe fixes, format
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

clean: ## remove .venv, build outputs and caches
	rm -rf $(VENV) build dist *.egg-info .coverage htmlcov
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: .created, .runtime (what `make demo` needs), .dev (what `make test` needs).
$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "graphopt needs Python 3.11 or newer, and no python3 is on the PATH." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "graphopt needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Name another one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.created $(PINS)
	$(INSTALL) pip setuptools
	$(EDITABLE) .
	@touch $@

# torch goes first, by itself: a resolver that backtracks over it may end at another build of it.
# onnx2torch without what it asks for: torchvision, of which only two operators would be used.
$(VENV)/.dev: $(VENV)/.runtime
	$(INSTALL) "$$(grep '^torch==' constraints.txt)"
	$(EDITABLE) '.[dev]'
	$(INSTALL) --no-deps "$$(grep '^onnx2torch==' constraints.txt)"
	@touch $@
