# make demo    install and integrate simulated cells        make test    all tests
# make check   ruff, mypy, tests                            make bench   quality and speed beside scvi-tools
# The data sets that tests and benchmarks need lie in SYSVI_DATA.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-dev.txt

ifeq ($(origin SYSVI_DATA), undefined)
ifneq ($(wildcard ../shared/data),)
export SYSVI_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: demo test check lint bench clean

demo: $(VENV)/engine
	$(BIN)/sysvi demo --output demo

test: $(VENV)/dev
	$(BIN)/python -m pytest

check: lint test

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev
	$(BIN)/python benchmarks/baron.py quality
	$(BIN)/python benchmarks/baron.py speed

# torch comes first and alone: its CPU wheel is enough, and later packages must not replace it.
$(VENV)/engine: pyproject.toml constraints-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/dev: $(VENV)/engine
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo
