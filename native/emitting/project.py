"""What lies beside the generated C: a CMake project, and an example program."""

from __future__ import annotations

from torchship.native.emitting.places import c_type
from torchship.native.emitting.unit import Unit
from torchship.native.emitting.writer import Writer, string_literal
from torchship.native.importing.method import Field


def cmake(unit: Unit) -> str:
    """Return a CMakeLists.txt: a library, and the example that uses it."""
    p = unit.prefix
    return f"""cmake_minimum_required(VERSION 3.10)
project({p} C)
set(CMAKE_C_STANDARD 11)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
add_library({p} {p}.c)
target_include_directories({p} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
if(NOT MSVC)
  # No contraction: multiply-adds are written where they are meant, so that \
every machine gives the same bits.
  target_compile_options({p} PRIVATE -O3 -ffp-contract=off -fno-math-errno)
  target_link_libraries({p} PUBLIC m)
endif()
add_executable(example example.c)
target_link_libraries(example PRIVATE {p})
enable_testing()
add_test(NAME example COMMAND example)
"""


def example(unit: Unit) -> str:
    """Return a C program that calls the first method, and runs the golden cases if it has them."""
    p, method = unit.prefix, unit.methods[0]
    name = f"{p}_{method.program.name}"
    out = Writer()
    out.line(
        f"/* Calls {name} with inputs of zeros, and prints the first number of each output. */"
    )
    out.line("#include <stdio.h>")
    out.line("#include <stdlib.h>")
    out.line()
    out.line(f'#include "{p}.h"')
    out.line()
    with out.block("int main(void)"):
        out.line(f"{name}_in in = {{0}};")
        out.line(f"{name}_out out = {{0}};")
        out.line("char message[256];")
        for field in method.interface.inputs:
            if field.kind != "tensor":
                out.line(f"in.{field.name} = 1;")
        for field in method.interface.inputs:
            if field.kind == "tensor" and not field.optional:
                out.line(f"in.{field.name} = {_zeros(field)};")
        for field in method.interface.outputs:
            out.line(f"out.{field.name} = {_zeros(field)};")
        out.line("out.message = message;")
        out.line("out.message_size = sizeof message;")
        out.line(f"void *workspace = malloc({name}_workspace_size(&in));")
        with out.block(f"if ({name}(NULL, &in, &out, workspace) == {p.upper()}_OK)"):
            for field in method.interface.outputs:
                label = string_literal(field.leaf)
                out.line(f'printf("%s[0] = %g\\n", {label}, (double)out.{field.name}[0]);')
        with out.block("else"):
            out.line('printf("%s\\n", message);')
        if unit.cases:
            out.line(f"void *memory = malloc({p}_selftest_workspace_size());")
            out.line(f"const int differing = {p}_selftest(memory, message, sizeof message);")
            out.line('printf("%s\\n", message);')
            out.line("return differing != 0;")
        else:
            out.line("return 0;")
    return out.text()


def _zeros(field: Field) -> str:
    return f"calloc({_count(field.shape)}, sizeof({c_type(field.dtype)}))"


def _count(shape: tuple[object, ...]) -> int:
    """Return the number of elements where every size that is not fixed is 1."""
    count = 1
    for size in shape:
        count *= size if isinstance(size, int) else 1
    return max(1, count)
