#!/bin/sh
# Copies what torchship-runner loads, and nothing else, from /opt/torchship into /opt/runner.
set -eu
site=$(echo /opt/torchship/lib/python3.*/site-packages)
mkdir -p /opt/runner/torch/lib /opt/runner/torchship/cpp_runner/lib
cd "$site"
cp -a torch/lib/libtorch.so torch/lib/libtorch_cpu.so torch/lib/libc10.so torch/lib/libgomp*.so* /opt/runner/torch/lib/
cp -a torchship/cpp_runner/bin /opt/runner/torchship/cpp_runner/
cp -a torchship/cpp_runner/lib/libtorchship_*.so torchship/cpp_runner/lib/libtorch-version /opt/runner/torchship/cpp_runner/lib/
