#!/usr/bin/env bash
# Installs the newest torch that pip is offered in an environment of its own:
#   deploy/newest_torch.sh FOLDER [ARGUMENTS OF PIP...]
# `make test-newest` calls it, with .venv/bin on PATH. That torch lies in FOLDER, before the packages of
# .venv; where pip is offered none newer, FOLDER/none says so.
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
rm -f "$folder/none"
echo "installing the newest torch of '$allowed' that pip is offered beside torch $there: up to 3 GB to download"
if "$python" -m pip install -q "$@" "$allowed,>$there" 2>"$folder/pip.log"; then
  echo "$packages" >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_packages.pth"
else
  {
    grep -v '^WARNING' "$folder/pip.log" | tail -n 2
    echo "pip is offered no torch newer than $there: nothing to test"
  } >"$folder/none"
fi
touch "$folder/installed"
