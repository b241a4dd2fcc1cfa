# make demo   the main job on this machine          make lint   ruff, mypy --strict, import-linter, Python 3.6 syntax
# make test   the whole test suite                  make bench  the benchmarks (ONLY=name for one of them)
# Each sets itself up in .venv; nothing else has to be installed by hand.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ONLY ?=
MIN := import sys; sys.exit(sys.version_info < (3, 10))

.PHONY: help demo test lint bench setup train-digits train-mnist train-scenes clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,3s/^# //p' Makefile

setup: $(READY)

# The newest interpreter from 3.10 on. Debian may lack ensurepip, which the package python3-venv holds.
$(READY): pyproject.toml Makefile
	@set -e; \
	for python in python3.13 python3.12 python3.11 python3.10 python3; do \
	  if $$python -c '$(MIN)' 2>/dev/null; then found=$$python; break; fi; done; \
	if [ -z "$$found" ]; then echo "tailfleet needs Python 3.10 or newer, and found none" >&2; exit 1; fi; \
	if [ ! -x $(BIN)/python ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  rm -rf $(VENV); \
	  if ! $$found -c 'import ensurepip' 2>/dev/null; then \
	    if [ "$$(id -u)" = 0 ]; then \
	      echo "installing Debian's python3-venv"; apt-get update -qq && apt-get install -qq -y python3-venv >/dev/null; \
	    else echo "this Python has no ensurepip: sudo apt-get install python3-venv" >&2; exit 1; fi; fi; \
	  echo "creating $(VENV) with $$($$found --version)"; $$found -m venv $(VENV); fi; \
	echo "installing tailfleet with torch, timm and Ray into $(VENV) (several GB; some minutes the first time)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[agent,coordinator,dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/tailfleet demo --dir build/demo

# On one thread each: torch's threads that outnumber cores wait for each other ten times as long. First what computes in
# its own process, then what starts coordinators, agents and clusters: those wait a lot, so two files run side by side.
test: export OMP_NUM_THREADS = 1
test: $(READY)
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vermin --quiet --no-tips --target=3.6- --backport dataclasses --eval-annotations --violations \
	  schema/tailfleet_schema agent/tailfleet_agent agent/tailfleet_reduce

bench: $(READY)
	$(BIN)/python -m tests.benchmarks.run $(if $(ONLY),--only $(ONLY))

train-digits: $(READY)
	$(BIN)/tailfleet model train-digits --out coordinator/tailfleet_coordinator/bundled/digits_vit.npz

# The models that the benchmarks of methods are run on; about half an hour each on one core.
train-mnist: $(READY)
	$(BIN)/python -m tests.benchmarks.train_mnist

train-scenes: $(READY)
	$(BIN)/python -m tests.benchmarks.train_scenes

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
