# Cotenant: set-up, checks, demonstration. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# llama-cpp-python is compiled for this very CPU, so the cache is keyed by what the CPU can do.
CPU_KEY := $(shell { grep -m1 -E '^(flags|Features)' /proc/cpuinfo; uname -m; $(PYTHON) -V; } 2>/dev/null | sha256sum | cut -c1-12)
WHEELS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cotenant/wheels/$(CPU_KEY)
LLAMA_LOCK := $(shell cat requirements/llama.txt requirements/llama-build.txt | sha256sum | cut -c1-12)
PROTOS := $(wildcard proto/cotenant/v1/*.proto)
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: help
help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: run
run: $(VENV)/bench.done  ## Set up and show the whole loop on this machine (at most six minutes after set-up)
	$(BIN)/cotenant demo

.PHONY: test
test: $(VENV)/bench.done  ## Set up and run all tests that need no special machine
	$(BIN)/python -m pytest

.PHONY: lint
lint: $(VENV)/bench.done  ## Format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: check
check: lint test  ## Lint and all tests; CI runs the kernel's suites, too

.PHONY: bench
bench: $(VENV)/bench.done  ## Measure latency and memory of the daemon, applying beside bare system calls, the probes against known workloads, and sensitivity curves against co-runs
	@missed=0; for one in latency apply_time monitoring_cost probe_check curve_check; do $(BIN)/python -m benchmarks.$$one || missed=1; done; exit $$missed

.PHONY: test-vm
test-vm: $(VENV)/dev.done  ## Run the kernel's suites on a booted kernel with cgroup v2, two NUMA nodes and CAT (root, Debian); ALL=1, ONLY=text, WAIT=1
	$(BIN)/python -m tests.vm.run $(if $(ONLY),--only '$(ONLY)')$(if $(ALL),--all) $(if $(WAIT),--wait)

.PHONY: setup
setup: $(VENV)/bench.done  ## Create .venv with everything, llama-cpp-python included

.PHONY: format
format: $(VENV)/dev.done  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: proto
proto: $(VENV)/dev.done  ## Generate cotenant/v1 from proto/
	rm -f cotenant/v1/*_pb2*.py*
	$(BIN)/python -m grpc_tools.protoc -Iproto -I$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=. --mypy_out=. --grpc_python_out=. --mypy_grpc_out=. $(PROTOS)

.PHONY: lock
lock:  ## Refresh the lock files from pyproject.toml
	requirements/lock.sh

.PHONY: clean
clean:  ## Remove .venv and what tools left in the tree (not the wheel cache)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage build *.egg-info

# --- set-up steps, each done once -------------------------------------------------------------

.PHONY: python-present compiler-present
python-present:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is missing. Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V); 3.11 or newer is needed. Set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing. Debian: apt-get install python3-venv" >&2; exit 1; }

compiler-present:
	@command -v gcc >/dev/null || { echo "gcc is missing (llama-cpp-python is compiled here). Debian: apt-get install gcc g++" >&2; exit 1; }
	@command -v g++ >/dev/null || { echo "g++ is missing (llama-cpp-python is compiled here). Debian: apt-get install g++" >&2; exit 1; }

$(VENV)/dev.done: requirements/dev.txt pyproject.toml | python-present
	@echo "Setting up .venv from the lock file ..."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements/dev.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# The folder is named by the lock's hash, so the lock's time must not count: every fresh clone would compile again.
$(WHEELS)/$(LLAMA_LOCK)/done: | requirements/llama.txt requirements/llama-build.txt python-present compiler-present
	@echo "Compiling llama-cpp-python for this CPU: about five minutes, once per machine ..."
	@mkdir -p $(@D)
	rm -rf $(@D)/venv && $(PYTHON) -m venv $(@D)/venv
	$(@D)/venv/bin/python -m pip --disable-pip-version-check -q install --require-hashes -r requirements/llama-build.txt
	PATH="$(@D)/venv/bin:$$PATH" CMAKE_BUILD_PARALLEL_LEVEL=$$(nproc) $(@D)/venv/bin/python -m pip --disable-pip-version-check -q \
	  wheel --no-deps --no-build-isolation --no-cache-dir --require-hashes -r requirements/llama.txt -w $(@D)
	rm -rf $(@D)/venv
	@touch $@

$(VENV)/bench.done: $(VENV)/dev.done $(WHEELS)/$(LLAMA_LOCK)/done
	$(PIP) install --no-deps --no-index --force-reinstall $(WHEELS)/$(LLAMA_LOCK)/*.whl
	@touch $@
