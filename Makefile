# What is lacking is installed into .venv by the first target that needs it.
#   make chat [MODEL=model.gguf] [PYTHON=python3.12]

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python, \
            $(shell $(p) -c 'import sys; sys.version_info < (3, 11) or print("$(p)")' 2>/dev/null)))
# Kernels are compiled by clang: the system's where there is one, else the one in a wheel.
COMPILER := $(if $(shell command -v clang),,compiler)

.PHONY: help chat test lint soak emulation bench model evaluate clean
.SILENT:

help:  ## show this list
	sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

chat: $(VENV)/.installed  ## talk with a model; reads standard input where that's no terminal
	$(BIN)/edgellm chat $(MODEL)

test: $(VENV)/.developing  ## run the tests
	$(BIN)/pytest -q

lint: $(VENV)/.developing  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy edgellm backends plugins

soak: $(VENV)/.developing  ## run the tests that take hours: link, tool calls, plans and trainings at release size
	EDGELLM_SOAK=1 $(BIN)/pytest -q $$(grep -l SOAK tests/test_*.py)

emulation: $(VENV)/.developing  ## get an aarch64 Python, run every family of models on it under qemu
	$(BIN)/python tests/emulation.py
	EDGELLM_FAMILIES=all $(BIN)/pytest -q tests/test_aarch64.py

bench: $(VENV)/.developing  ## measure speed; PEER_PYTHON=python has llama-cpp-python
	$(BIN)/python tests/benchmarks/speed_table.py build/shapes $(PEER_PYTHON)

model: $(VENV)/.developing  ## train the model inside the package anew (about two hours on two cores)
	mkdir -p build
	$(BIN)/python -m edgellm.training.default_model edgellm/default_model.gguf \
	  --state build/default_model.zip
	$(MAKE) evaluate

REPORT ?= edgellm/training/default_model.json

evaluate: $(VENV)/.developing  ## measure which tools MODEL calls, and what it says; writes REPORT
	$(BIN)/python -m edgellm.training.evaluation $(MODEL) \
	  --requests tests/data/requests/spoken.json --report $(REPORT)

clean:  ## remove what was installed and built here
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Standard output belongs to the answers: whatever the installation says goes to standard error.
$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	echo "installing edgellm into $(VENV) ..." >&2
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.$(COMPILER:%=[%])' >&2
	touch $@

$(VENV)/.developing: pyproject.toml | $(BIN)/pip
	echo "installing edgellm and its developers' tools into $(VENV) ..." >&2
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev$(COMPILER:%=,%)]' >&2
	touch $@ $(VENV)/.installed

# Debian ships Python without `ensurepip`: then the system's pip fills the environment, or apt brings
# what is missing.
$(BIN)/pip:
	if [ -z "$(PYTHON)" ]; then echo "edgellm needs Python 3.11 or newer" >&2; exit 1; fi
	if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV) >&2; \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -m venv --without-pip $(VENV) >&2 && \
	  $(PYTHON) -m pip --python $(BIN)/python install -q pip >&2; \
	else \
	  echo "installing python3-venv ..." >&2; \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  { $$as_root apt-get update -qq && $$as_root apt-get install -qq -y python3-venv; } >&2 && \
	  $(PYTHON) -m venv $(VENV) >&2; \
	fi || { echo "cannot make a virtual environment; try: apt-get install python3-venv" >&2; exit 1; }
