#!/bin/sh
# Ships and proves models with what prune.sh has left: every golden case in eager Python, script, C++,
# over HTTP and gRPC. What Python imports on the way, and for the help of all commands, stays as
# bytecode: an image that is read-only could not keep it, and would compile it at every start.
#   prove.sh MODEL...
set -eu
export PATH="/opt/torchship/bin:$PATH"
HOME=$(mktemp -d)
export HOME
torchship --help >/dev/null
for model in "$@"; do
  torchship script "$model" -o "$HOME/$model.pt" >"$HOME/log" 2>&1 &&
    torchship verify "$HOME/$model.pt" --runtime eager --runtime script --runtime cpp --runtime http \
      --runtime grpc >"$HOME/log" 2>&1 || {
    cat "$HOME/log" >&2
    exit 1
  }
done
rm -rf "$HOME"
