"""What lies beside the generated C: a CMake project, and an example program."""

from __future__ import annotations

from torchship.native.emitting.places import c_type
from torchship.native.emitting.unit import Unit
from torchship.native.emitting.writer import Writer, string_literal
from torchship.native.importing.method import Field


def cmake(unit: Unit) -> str:
    """Return a CMakeLists.txt: a library, and the example that uses it."""
    p = unit.prefix
    file = f" ${{CMAKE_CURRENT_SOURCE_DIR}}/{p}.bin" if unit.weights_apart else ""
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
add_test(NAME example COMMAND example{file})
"""


def example(unit: Unit) -> str:
    """Return a C program that calls the first method, and runs the golden cases if it has them."""
    p, method = unit.prefix, unit.methods[0]
    name = f"{p}_{method.program.name}"
    weights = "weights" if unit.weights_apart else "NULL"
    out = Writer()
    out.line(
        f"/* Calls {name} with inputs of zeros, and prints the first number of each output. */"
    )
    out.line("#include <stdio.h>")
    out.line("#include <stdlib.h>")
    out.line()
    out.line(f'#include "{p}.h"')
    out.line()
    if unit.weights_apart:
        _read_weights(out, p)
    with out.block("int main(int argc, char **argv)" if unit.weights_apart else "int main(void)"):
        out.line("char message[256];")
        if unit.weights_apart:
            out.line(f"const {p}_weights *weights = NULL;")
            out.line("if (argc == 2) weights = read_weights(argv[1], message, sizeof message);")
            with out.block("if (!weights)"):
                usage = string_literal(f"usage: example {p}.bin")
                out.line(f"puts(argc == 2 ? message : {usage});")
                out.line("return 2;")
        out.line(f"{name}_in in = {{0}};")
        out.line(f"{name}_out out = {{0}};")
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
        with out.block(f"if ({name}({weights}, &in, &out, workspace) == {p.upper()}_OK)"):
            for field in method.interface.outputs:
                label = string_literal(field.leaf)
                out.line(f'printf("%s[0] = %g\\n", {label}, (double)out.{field.name}[0]);')
        with out.block("else"):
            out.line('printf("%s\\n", message);')
        if unit.cases:
            out.line(f"void *memory = malloc({p}_selftest_workspace_size());")
            given = "weights, " if unit.weights_apart else ""
            out.line(f"const int differing = {p}_selftest({given}memory, message, sizeof message);")
            out.line('printf("%s\\n", message);')
            out.line("return differing != 0;")
        else:
            out.line("return 0;")
    return out.text()


def _read_weights(out: Writer, p: str) -> None:
    """Write a function that reads the file of weights to where the code wants it."""
    out.line(
        "/* The weights in a file, or NULL and a message. Where there is mmap, map it instead of "
        "reading it. */"
    )
    with out.block(
        f"static const {p}_weights *read_weights(const char *path, char *message, "
        "int64_t message_size)"
    ):
        out.line('FILE *file = fopen(path, "rb");')
        out.line(f"static char memory[64 + 129 + sizeof({p}_weights)];")
        out.line("char *bytes = memory + (64 - (uintptr_t)memory % 64) % 64;")
        with out.block("if (!file)"):
            out.line('snprintf(message, (size_t)message_size, "cannot open %s", path);')
            out.line("return NULL;")
        out.line(f"const size_t size = fread(bytes, 1, sizeof({p}_weights) + 129, file);")
        out.line("fclose(file);")
        out.line(f"return {p}_weights_from(bytes, size, message, message_size);")
    out.line()


def _zeros(field: Field) -> str:
    return f"calloc({_count(field.shape)}, sizeof({c_type(field.dtype)}))"


def _count(shape: tuple[object, ...]) -> int:
    """Return the number of elements where every size that is not fixed is 1."""
    count = 1
    for size in shape:
        count *= size if isinstance(size, int) else 1
    return max(1, count)
