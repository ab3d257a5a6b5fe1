# make demo    install and integrate simulated cells        make test    all tests: Python, R, the two together
# make check   linters, tests, R CMD check                  make bench   quality and speed beside scvi-tools, scib-metrics
# make bench-quick   the core ratios of speed, in 5 minutes
# The data sets that tests and benchmarks need lie in SYSVI_DATA.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-dev.txt
export RETICULATE_PYTHON := $(abspath $(BIN)/python)

ifeq ($(origin SYSVI_DATA), undefined)
ifneq ($(wildcard ../shared/data),)
export SYSVI_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: demo test test-python test-r test-interop check check-r lint docs bench bench-quick clean

demo: $(VENV)/engine
	$(BIN)/sysvi demo --output demo

test: test-python test-r test-interop

test-python: $(VENV)/dev
	$(BIN)/python -m pytest

test-r: $(VENV)/interop
	Rscript tools/test-r.R

test-interop: $(VENV)/interop
	$(BIN)/python -m pytest tests/interop

check: lint test check-r

check-r: $(VENV)/interop
	Rscript tools/check-r.R

lint: $(VENV)/interop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	Rscript -e 'print(lints <- lintr::lint_package()); quit(status = length(lints) > 0)'

docs: $(VENV)/interop
	Rscript -e 'roxygen2::roxygenise()'

bench: $(VENV)/dev
	$(BIN)/python benchmarks/baron.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/metrics.py speed --cells 20000 --rounds 3

bench-quick: $(VENV)/engine
	$(BIN)/python benchmarks/training.py --quick

# torch comes first and alone: its CPU wheel is enough, and later packages must not replace it.
$(VENV)/engine: pyproject.toml constraints-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/dev: $(VENV)/engine
	$(PIP) --editable '.[dev]'
	touch $@

# rpy2 comes last: it compiles against the R it finds.
$(VENV)/interop: $(VENV)/dev tools/install-r.sh
	tools/install-r.sh
	$(PIP) --no-cache-dir --editable '.[interop]'
	touch $@

clean:
	rm -rf $(VENV) build demo
