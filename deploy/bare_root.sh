#!/usr/bin/env bash
# Installs a wheel in a Debian that has nothing but Python, made by debootstrap, and runs it there:
#   deploy/bare_root.sh WHEEL
# `make test-wheel` calls it, with .venv/bin on PATH. It needs root. SUITE is Debian's release (bookworm),
# ROOT the folder of the system (build/bare-SUITE-python), which is kept, PIP_ARGS what pip is told.
set -euo pipefail
cd "$(dirname "$0")/.."
wheel=$(realpath "$1")
suite=${SUITE:-bookworm}
root=${ROOT:-build/bare-$suite-python}

# With /proc, which a container has too, in a mount namespace that ends with the command.
inside() {
  unshare --mount sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$root" \
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
}
if [ ! -e "$root/.python" ]; then
  python deploy/debian_root.py "$suite" "build/bare-$suite"
  rm -rf --one-file-system "$root"
  cp -a "build/bare-$suite" "$root"
  cp -r deploy/image "$root/steps"
  inside /steps/packages.sh python3-minimal python3-venv
  touch "$root/.python"
fi
python=$(inside python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
echo "$suite, Python $python, $(inside ldd --version | head -n 1)"

# What it needs is fetched here, where pip knows its indexes: the bare system has no network of its own.
rm -rf "$root/wheels" "$root/venv"
# shellcheck disable=SC2086  # several arguments
python deploy/wheelhouse.py "build/wheelhouse-$suite" "$wheel" "" "$python" ${PIP_ARGS:-}
cp -r "build/wheelhouse-$suite" "$root/wheels"
cp "$wheel" "$root/wheels/"
inside python3 -m venv /venv
inside /venv/bin/pip install -q --no-index --find-links /wheels --disable-pip-version-check \
  "/wheels/$(basename "$wheel")"
rm -rf "$root/wheels"

for file in bin/torchship-runner lib/libtorchship_c.so lib/libtorchship_ops.so; do
  missing=$(inside sh -c "ldd /venv/lib/python$python/site-packages/torchship/cpp_runner/$file" | grep 'not found' || true)
  [ -z "$missing" ] || { echo "$file: $missing" >&2; exit 1; }
done
inside /venv/bin/torchship script lstm-fused -o /tmp/lstm-fused.pt
inside /venv/bin/torchship verify /tmp/lstm-fused.pt
inside /venv/bin/torchship-runner verify /tmp/lstm-fused.pt | tail -n 1
inside /venv/bin/python -c '
import ctypes, torchship.cpp_runner.binary as binary
library = ctypes.CDLL(binary.cmake_prefix() / "lib" / "libtorchship_c.so")
library.torchship_version.restype = ctypes.c_char_p
print("the C ABI of torchship", library.torchship_version().decode())
'
rm -rf "$root/venv"
echo "the wheel runs in a bare $suite"
