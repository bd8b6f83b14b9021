#!/bin/sh
# Installs torch, the wheel of /wheels and its extras into /opt/torchship, and no bytecode:
#   site.sh TORCH TORCH_VERSION EXTRAS [ARGUMENTS OF PIP...]
set -eu
torch=$1 version=$2 extras=$3
shift 3
python3 -m venv /opt/torchship
export PATH="/opt/torchship/bin:$PATH" PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python "$(dirname "$0")/install_torch.py" "$torch" "$version" --no-compile "$@"
pip install -q --no-compile "$@" "$(echo /wheels/torchship-*.whl)${extras:+[$extras]}"
