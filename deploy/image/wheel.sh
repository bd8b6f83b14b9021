#!/bin/sh
# Compiles the package and puts its wheel into /wheels:
#   wheel.sh TORCH TORCH_VERSION [ARGUMENTS OF PIP...]
# It runs in the sources' folder. Nothing of this stage is in an image but the wheel.
set -eu
torch=$1 version=$2
shift 2
python3 -m venv /opt/build
export PATH="/opt/build/bin:$PATH" PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python deploy/install_torch.py "$torch" "$version" "$@"
# npm too, unless the page's libraries came with the sources.
# shellcheck disable=SC2046  # none, or one
pip install -q "$@" "scikit-build-core>=1.1" cmake ninja $(python deploy/page_assets.py --needs)
pip wheel -q "$@" --no-deps --no-build-isolation --wheel-dir /wheels .
