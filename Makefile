# make demo   pictures from the bundled model
# make test   linter, type checker, tests
# make clean  removes what was installed and built; pictures/ and runs/ stay
# Each sets up .venv itself. Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.DELETE_ON_ERROR:
.PHONY: demo test clean

demo: .venv/.installed-demo
	$(BIN)/toile generate "navy blue checked shirt for men" -n 4 --seed 7 --out pictures/
	@echo "The pictures are in $(CURDIR)/pictures"

# The tests' networks are too small for threads to help; processes do.
test: .venv/.installed-test
	$(BIN)/ruff check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadgroup

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	    "toile needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/.installed-demo: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e .
	@touch $@

# Holds all that the demo needs, so the demo need not install again.
.venv/.installed-test: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e ".[test]"
	@touch .venv/.installed-demo $@

clean:
	rm -rf .venv build dist src/toile.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +
