#!/bin/sh
# The command `torchship-runner` of the Python package: becomes the binary that was installed with
# it. A shell, since Python takes longer to start than the binary takes for a small model.
self=$0
[ -L "$self" ] && self=$(readlink -f "$self")
case $self in
  */*) here=${self%/*} ;;
  *) here=. ;;
esac

# Takes a pattern's one match, if torch is beside it; of several, which a folder for two Pythons
# has, none.
only() { [ $# = 1 ] && [ -x "$1" ] && [ -e "${1%/$inside}/torch/lib/libtorch_cpu.so" ] && binary=$1; }

inside=torchship/cpp_runner/bin/torchship-runner
only "$here"/../lib/python3*/*-packages/$inside ||
  only "$here"/../lib64/python3*/*-packages/$inside ||
  only "$here"/../$inside ||
  exec "$here/torchship" runner "$@"
exec "$binary" "$@"
