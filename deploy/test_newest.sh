#!/usr/bin/env bash
# Builds with the newest torch that pip is offered, and runs the tests that torch decides about:
#   deploy/test_newest.sh FOLDER [ARGUMENTS OF PIP...]
# `make test-newest` calls it, with .venv/bin on PATH. That torch lies in FOLDER, before the packages of
# .venv; where pip is offered none newer, it says so and is done.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
shift
python=$folder/.venv/bin/python
allowed=$(sed -n 's/^ *"\(torch>=.*\)",$/\1/p' pyproject.toml)
there=$(python -c 'from importlib.metadata import version; print(version("torch").partition("+")[0])')
packages=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

if [ ! -x "$python" ]; then
  command -v python >/dev/null
  "$(python -c 'import sys; print(sys._base_executable)')" -m venv "$folder/.venv"
fi
if [ ! -e "$folder/installed" ]; then
  echo "installing the newest torch of '$allowed' that pip is offered beside torch $there: up to 3 GB to download"
  if ! "$python" -m pip install -q "$@" "$allowed,>$there" 2>"$folder/pip.log"; then
    grep -v '^WARNING' "$folder/pip.log" | tail -n 2
    echo "pip is offered no torch newer than $there: nothing to test"
    exit 0
  fi
  echo "$packages" >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_packages.pth"
  touch "$folder/installed"
fi
"$python" -c 'import torch; print("torch", torch.__version__)'
"$python" -m pip install -q --no-index --no-deps --no-build-isolation --ignore-installed \
  -C build-dir="$folder/cpp" -C cmake.build-type=Debug -C cmake.define.CMAKE_CXX_FLAGS_DEBUG=-O0 -e .
# Archives of the one torch, for the other.
python deploy/cross_torch.py make "$folder/archives-$there"
"$python" deploy/cross_torch.py check "$folder/archives-$there"
"$python" deploy/cross_torch.py make "$folder/archives-newest"
python deploy/cross_torch.py check "$folder/archives-newest"
PATH=$PWD/$folder/.venv/bin:$PATH "$python" -m pytest -q -n auto --maxprocesses 4 --max-worker-restart 0 --dist loadfile \
  tests/script tests/parity/test_agreement.py tests/parity/test_libtorch.py tests/parity/test_c_abi.py
