# Needs git, make, and Python 3.11 or newer with its venv module. Another interpreter: make demo PYTHON=/path/to/python

BIN := .venv/bin
CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)

# Tracking settings of the shell (a server, a run, an experiment) are for other work than the demo and the tests.
unexport $(filter MLFLOW_%,$(.VARIABLES))
unexport PYTHONHOME PYTHONPATH

.PHONY: help demo test test-slow lint clean

help:
	@echo 'make demo       the whole experiment in small: generated sounds, one network, six attacks, three tables'
	@echo 'make test       all checks and the tests that take seconds'
	@echo 'make test-slow  the tests that take minutes'
	@echo 'make lint       the checks alone'
	@echo 'make clean      remove .venv and caches; results stay'

demo: .venv/.installed
	PATH="$(CURDIR)/.venv/bin:$$PATH" mlflow run . --env-manager local --experiment-name advtrack

# A process for each core, up to eight.
test: lint
	$(BIN)/pytest -m "not slow" -n logical --maxprocesses 8 --dist worksteal

test-slow: .venv/.installed-dev
	$(BIN)/pytest -m slow

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find advtrack tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: touched when done, so that a call cut short is made good by the next, and a second call has nothing to do.
.venv/.installed: pyproject.toml .venv/.made
	$(BIN)/python -m pip install --disable-pip-version-check -e .
	@touch $@

.venv/.installed-dev: pyproject.toml .venv/.made
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch .venv/.installed $@

.venv/.made:
	@if { $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' && $(BIN)/python -m ensurepip; } \
		>/dev/null 2>&1; then touch $@; exit; fi; \
	for python in $(CANDIDATES); do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "creating .venv with $$("$$python" --version)"; \
			"$$python" -m venv --clear .venv && touch $@; exit; \
		fi; \
	done; \
	echo 'No Python 3.11 or newer with its venv module among: $(CANDIDATES). Install one, or name it: make PYTHON=...' >&2; \
	exit 1
