# Build, check and try the project. `make help` lists the targets.
#
# Variables:  PYTHON=python3.12  the interpreter to build .venv with (3.11 to 3.13)
#             JOBS=2             test processes;  ARGS="-k chunk"  more arguments for pytest
#             UV=uv              a uv of your own instead of the one installed into .venv-bootstrap

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
BOOTSTRAP := .venv-bootstrap
STAMP := $(VENV)/.installed
LOCK := requirements.lock
JOBS ?= 2
ARGS ?=
PYTHON ?=
UV ?= $(BOOTSTRAP)/bin/uv
OWN_UV := $(filter $(BOOTSTRAP)/bin/uv,$(UV))
UV_VERSION := 0.13.8
TORCH_VERSION := 2.11.0

# A candidate must run (a version manager's shim can exist and still fail), be able to make virtual
# environments, and have a version in range.
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)
IN_RANGE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
FIND_PYTHON = for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c '$(IN_RANGE)' >/dev/null 2>&1; then echo "$$candidate"; exit 0; fi; \
	done; \
	echo "No suitable Python: tried $(CANDIDATES), and none is a working Python 3.11, 3.12 or 3.13" \
	    "with the venv module (Debian: apt install python3-venv)." \
	    "Name one: make PYTHON=/path/to/python3.12 ..." >&2; \
	exit 1

# Nothing is looked up on a model hub: without a network each look-up costs 20 s of retries.
OFFLINE := HF_HUB_OFFLINE=1
# uv takes the interpreter found above, and downloads none.
export UV_PYTHON_DOWNLOADS := never

.PHONY: help demo test lint format install python lock clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: install  ## Train and compare small models on synthetic speech
	@$(OFFLINE) $(VENV)/bin/summarymixing demo $(ARGS)

test: install  ## Run the tests
	@$(OFFLINE) OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: install  ## Check style, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	find recipes -name '*.py' -print0 | xargs -0 -n 1 $(VENV)/bin/mypy

format: install  ## Fix formatting and what else ruff can fix
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

install: $(STAMP)  ## Make .venv with the locked versions, if it is not there yet
ifneq ($(PYTHON),)
	@version='import sys; print("Python %d.%d" % sys.version_info[:2])'; \
	asked=$$("$$($(FIND_PYTHON))" -c "$$version"); has=$$($(VENV)/bin/python -c "$$version"); \
	if [ "$$asked" != "$$has" ]; then \
	    echo "PYTHON=$(PYTHON) is $$asked, but $(VENV) has $$has: run 'make clean' first." >&2; \
	    exit 1; \
	fi
endif

python:  ## Name the Python interpreter that .venv is built with
	@$(FIND_PYTHON)

$(BOOTSTRAP)/bin/uv:
	@python=$$($(FIND_PYTHON)); \
	echo "==> $(BOOTSTRAP): uv $(UV_VERSION), with $$("$$python" --version) ($$python)"; \
	"$$python" -m venv --clear $(BOOTSTRAP); \
	$(BOOTSTRAP)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# setuptools comes with the lock (torch needs it), so that the package builds without a network.
$(STAMP): $(LOCK) setup.py | $(OWN_UV)
	@echo "==> $(VENV): $$(grep -c '==' $(LOCK)) locked packages (about 5 GB the first time)"
	@if [ ! -x $(VENV)/bin/python ]; then \
	    python=$$($(FIND_PYTHON)); \
	    $(UV) venv --quiet --seed --clear --python "$$("$$python" -c 'import sys; print(sys.executable)')" $(VENV); \
	fi
	@$(UV) pip sync --python $(VENV)/bin/python $(LOCK)
	@$(UV) pip install --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

# torch is held at the oldest version in range, the one that GPU images and torchaudio have.
lock: | $(OWN_UV)  ## Write requirements.lock anew from setup.py (ARGS=--upgrade takes newer versions)
	@echo "torch==$(TORCH_VERSION)" | $(UV) pip compile setup.py --extra dev --constraint - \
	    --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --quiet \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    --output-file $(LOCK) $(ARGS)

clean:  ## Remove environments and caches; results and data stay
	rm -rf $(VENV) $(BOOTSTRAP) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find summarymixing_modules recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +
