#!/bin/sh
# Removes from /opt/torchship what no server loads. What is left is proved by prove.sh.
set -eu
site=$(echo /opt/torchship/lib/python3.*/site-packages)
cd "$site/torch"
# Headers, CMake's files, programs that test torch and the libraries of those tests.
find bin -mindepth 1 ! -name torch_shm_manager -delete
rm -rf include share test lib/*test*.so lib/*.a lib/libbackend_with_compiler.so lib/libaoti_custom_ops.so
# torch.compile needs a compiler, which is not here, and torch.onnx a package of its own.
rm -rf _inductor onnx
# A fifth of them is names for a debugger. Libraries that patchelf has changed would not load any more.
strip --strip-unneeded lib/libtorch_cpu.so lib/libtorch_python.so lib/libc10.so
cd "$site"
# The tests of other packages, sources of compiled modules, types for a type checker.
find . -type d \( -name tests -o -name __pycache__ \) -prune -exec rm -rf {} +
find . -name '*.pyi' -delete
find . \( -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' -o -name '*.a' \) \
  ! -path './torchship/*' -delete
# What C++ programs are built with.
rm -rf torchship/cpp_runner/include torchship/cpp_runner/lib/*.a torchship/cpp_runner/lib/cmake \
  torchship/cpp_runner/lib/pkgconfig torchship/cpp_runner/examples
# torch asks for these two, and imports them only to plan and to build.
rm -rf networkx setuptools pkg_resources _distutils_hack distutils-precedence.pth
# Nothing is installed into an image that runs.
rm -rf pip ./pip-*.dist-info /opt/torchship/bin/pip* /opt/torchship/bin/activate* /opt/torchship/bin/Activate*
