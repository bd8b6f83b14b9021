# `make demo` and `make test` do all of the set-up: system packages, .venv, the C++ build.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/release
PACKAGES := python3-venv g++ pkg-config curl libssl-dev libzip-dev libpng-dev nlohmann-json3-dev libcli11-dev libgtest-dev redis-server
SOURCES := pyproject.toml CMakeLists.txt $(shell find cpp_runner -name '*.cpp' -o -name '*.h' -o -name 'CMakeLists.txt' -o -name '*.cmake' -o -name '*.in')

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test test-python test-cpp lint format bench bench-server clean

help:
	@echo "make demo   set up from nothing, script every model, check it in 4 runtimes"
	@echo "make test   set up from nothing, run every test, Python and C++"
	@echo "make lint   ruff, mypy, clang-format"
	@echo "make bench  latency of each runtime, side by side"
	@echo "make bench-server  throughput of the server beside a plain endpoint (needs wrk)"
	@echo "make clean  remove everything that make has made"

setup: $(VENV)/installed

demo: setup
	@torchship demo

test: test-python test-cpp

test-python: setup
	pytest

test-cpp: setup
	cmake -S . -B $(BUILD) -DTORCHSHIP_BUILD_TESTS=ON >/dev/null
	cmake --build $(BUILD) --target tests
	ctest --test-dir $(BUILD) --output-on-failure

lint: setup
	ruff check .
	ruff format --check .
	mypy -p torchship
	for folder in tests/*/ bench/; do mypy $$folder || exit 1; done
	mypy $(wildcard tests/*.py)
	clang-format --dry-run -Werror $(shell find cpp_runner -name '*.cpp' -o -name '*.h')

format: setup
	ruff check --fix .
	ruff format .
	clang-format -i $(shell find cpp_runner -name '*.cpp' -o -name '*.h')

bench: setup
	python bench/latency.py

bench-server: setup
	python bench/server.py

clean:
	rm -rf $(VENV) build archives .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Debian's packages: installed when we are root, named when we are not. Elsewhere CMake fetches
# the C++ libraries that it does not find.
$(VENV)/system:
	@mkdir -p $(VENV)
	@if command -v dpkg-query >/dev/null; then \
	  missing=""; \
	  for package in $(PACKAGES); do \
	    dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
	      || missing="$$missing $$package"; \
	  done; \
	  if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ]; then \
	    echo "installing$$missing"; \
	    apt-get update -qq && apt-get install -y -qq $$missing >/dev/null; \
	  elif [ -n "$$missing" ]; then \
	    echo "missing system packages; run: sudo apt-get install -y$$missing"; exit 1; \
	  fi; \
	fi
	@touch $@

$(VENV)/bin/pip: | $(VENV)/system
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: CMake links against the wheel that will run.
$(VENV)/torch: | $(VENV)/bin/pip
	pip install -q $(PIP_ARGS) torch==2.13.0
	pip install -q $(PIP_ARGS) "scikit-build-core>=1.1" cmake ninja
	@touch $@

$(VENV)/installed: $(SOURCES) | $(VENV)/torch
	pip install -q $(PIP_ARGS) --no-build-isolation -e ".[dev]"
	@touch $@
