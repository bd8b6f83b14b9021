#!/usr/bin/env bash
# Builds with the newest torch, and runs the tests that torch decides about:
#   deploy/test_newest.sh FOLDER PYTEST [ARGUMENTS OF PYTEST...]
# `make test-newest` calls it, with .venv/bin on PATH, after deploy/newest_torch.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
shift
python=$folder/.venv/bin/python
if [ -e "$folder/none" ]; then
  cat "$folder/none"
  exit 0
fi
there=$(python -c 'from importlib.metadata import version; print(version("torch").partition("+")[0])')
"$python" -c 'import torch; print("torch", torch.__version__)'
"$python" -m pip install -q --no-index --no-deps --no-build-isolation --ignore-installed \
  -C build-dir="$folder/cpp" -C cmake.build-type=Debug -C cmake.define.CMAKE_CXX_FLAGS_DEBUG=-O0 -e .
# Archives of the one torch, for the other.
python deploy/cross_torch.py make "$folder/archives-$there"
"$python" deploy/cross_torch.py check "$folder/archives-$there"
"$python" deploy/cross_torch.py make "$folder/archives-newest"
python deploy/cross_torch.py check "$folder/archives-newest"
PATH=$PWD/$folder/.venv/bin:$PATH "$python" -m "$@" -q \
  tests/script tests/parity/test_agreement.py tests/parity/test_libtorch.py tests/parity/test_c_abi.py
