# make demo        install into .venv and integrate simulated cells
# make report-demo the report of the demo: demo/report.html
# make test        all tests: Python, R, and the two together
# make test-quick  Python tests without the slow ones, in under two minutes: for the edit loop
# make soak        the random tests of robustness again and again: SYSVI_SOAK_ROUNDS times (100)
# make check       what CI runs: linters, all tests, R CMD check, the site; each step is named and timed
# make lint        ruff, mypy, import-linter, lintr
# make docs        the site of Python and the method: build/docs/index.html (make test-site also opens it in a browser)
# make roxygen     help pages and NAMESPACE of the R package
# make docs-r-site the website of the R package: build/site-r
# make dist        wheel and source distribution, checked: dist
# make test-wheel  install the wheel of make dist into empty environments and integrate simulated cells
# make bench       quality and speed beside scvi-tools and scib-metrics; make bench-quick: ratios of speed, in 5 minutes
# make clean       remove the environment and what was built
#
# Variables: PYTHON (the Python to make .venv with), JOBS (pytest processes), PYTEST_ARGS (further arguments of pytest),
# WHEEL_PYTHONS (the versions that make test-wheel installs into), SYSVI_TORCH (the torch that it installs there, such as
# torch==2.13.0), SYSVI_DATA (folder of the real data sets that some tests and benchmarks need).

PYTHON ?= python3
JOBS ?= 2
WHEEL_PYTHONS ?= 3.11 3.12 3.13
PYTEST_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-dev.txt
PYTEST := $(BIN)/python -m pytest
STEP := @tools/step.sh
export RETICULATE_PYTHON := $(abspath $(BIN)/python)

ifeq ($(origin SYSVI_DATA), undefined)
ifneq ($(wildcard ../shared/data),)
export SYSVI_DATA := $(abspath ../shared/data)
endif
endif

.NOTPARALLEL:
.PHONY: demo report-demo engine install test soak test-quick test-python test-r test-interop test-site check check-r lint lint-python lint-r \
  docs docs-r-site roxygen dist test-wheel bench bench-quick clean

demo: engine
	$(BIN)/sysvi demo --output demo

report-demo: demo
	$(PIP) --editable '.[report]'
	$(BIN)/sysvi report demo/demo.h5ad --label cell_type -o demo/report.html --overwrite

# -- tests

test: test-python test-r test-interop

test-python: $(VENV)/dev
	$(STEP) "Python tests" $(PYTEST) -n $(JOBS) $(PYTEST_ARGS)

test-quick: $(VENV)/dev
	$(STEP) "quick Python tests" $(PYTEST) tests/python -n $(JOBS) -m "not slow and not data" $(PYTEST_ARGS)

soak: export SYSVI_SOAK_ROUNDS ?= 100
soak: $(VENV)/dev
	$(STEP) "tests of robustness, $(SYSVI_SOAK_ROUNDS) rounds" $(PYTEST) tests/robustness -n $(JOBS) $(PYTEST_ARGS)

test-r: $(VENV)/interop
	$(STEP) "R tests" Rscript tools/test-r.R

# One process: R runs inside it.
test-interop: $(VENV)/interop
	$(STEP) "tests of R and Python together" $(PYTEST) tests/interop $(PYTEST_ARGS)

# -- checks

check:
	$(STEP) "installation" $(MAKE) --no-print-directory install
	$(STEP) "make check" $(MAKE) --no-print-directory lint test check-r test-site

check-r: $(VENV)/interop
	$(STEP) "R CMD check" Rscript tools/check-r.R

lint: install lint-python lint-r

lint-python: $(VENV)/dev
	$(STEP) "ruff check" $(BIN)/ruff check .
	$(STEP) "ruff format" $(BIN)/ruff format --check .
	$(STEP) "mypy" $(BIN)/mypy
	$(STEP) "import-linter" $(BIN)/lint-imports

lint-r:
	$(STEP) "lintr" Rscript -e 'print(lints <- lintr::lint_package()); quit(status = length(lints) > 0)'

roxygen: $(VENV)/interop
	Rscript -e 'roxygen2::roxygenise()'

# -- the site: tutorials are run, warnings are errors

docs: $(VENV)/docs
	$(STEP) "site" $(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	$(STEP) "links of the site" $(BIN)/python tools/check_site.py build/docs

test-site: docs $(VENV)/interop
	$(STEP) "site in a browser" $(PYTEST) tests/python/test_site_browser.py $(PYTEST_ARGS)

docs-r-site: R_SITE_URL = $(shell sed -n 's/^url: //p' pkgdown/_pkgdown.yml)
docs-r-site: $(VENV)/engine
	$(STEP) "website of the R package" Rscript tools/site-r.R
	$(STEP) "links of the website" $(BIN)/python tools/check_site.py --links-only --url $(R_SITE_URL) build/site-r

# -- release

dist: $(VENV)/release
	$(STEP) "wheel and source distribution" $(BIN)/python tools/make_dist.py

test-wheel: $(VENV)/release
	$(STEP) "wheel in empty environments" $(BIN)/python tools/test_wheel.py $(WHEEL_PYTHONS)

# -- benchmarks

bench: $(VENV)/dev
	$(BIN)/python benchmarks/baron.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/metrics.py speed --cells 20000 --rounds 3

bench-quick: engine
	$(BIN)/python benchmarks/training.py --quick

# -- the environment

engine: $(VENV)/engine
install: $(VENV)/interop

# torch comes first and alone: its CPU wheel is enough, and later packages must not replace it.
$(VENV)/engine: pyproject.toml constraints-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/dev: $(VENV)/engine
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/docs: $(VENV)/engine
	$(PIP) --editable '.[docs]'
	touch $@

$(VENV)/release: pyproject.toml constraints-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) build check-wheel-contents twine
	touch $@

# rpy2 comes last: it compiles against the R it finds.
$(VENV)/interop: $(VENV)/dev tools/install-r.sh tools/install-browser.sh
	tools/install-r.sh
	tools/install-browser.sh
	$(PIP) --no-cache-dir --editable '.[interop]'
	touch $@

clean:
	rm -rf $(VENV) build demo dist
