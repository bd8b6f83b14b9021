"""The generated C: a header with the interface, and a file with weights, kernels and methods."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

from torchship.native.emitting import kernel_sources, selftest, statements, weights
from torchship.native.emitting.places import c_type
from torchship.native.emitting.unit import CompiledMethod, Unit
from torchship.native.emitting.writer import Writer, comment_text, string_literal
from torchship.native.errors import UnsupportedError
from torchship.native.importing.method import BATCH, Field
from torchship.native.ir import sizes
from torchship.native.passes.memory import Plan

PIECE_BYTES = 1 << 20
LARGEST_PIECE = 48
LONGEST_TEXT = 4095
"""How many characters of a literal every compiler of C takes."""


def piece_rows(plan: Plan) -> int:
    """Return how many rows of a batch to compute at a time, so that they stay in the cache."""
    total = sizes.simple_expr(plan.total)
    values = {s: 1 for s in total.free_symbols}

    def at(rows: int) -> int:
        return int(
            total.xreplace({s: (rows if s.name == "rows" else v) for s, v in values.items()})
        )

    per_row = max(1, (at(96) - at(0)) // 96)
    rows = min(LARGEST_PIECE, max(1, PIECE_BYTES // per_row))
    return rows // 12 * 12 if rows >= 12 else rows


# --- the header ---


def header(unit: Unit) -> str:
    """Return the text of the header."""
    p, guard = unit.prefix, f"{unit.prefix.upper()}_H"
    out = Writer()
    out.line(f"/* {comment_text(unit.title)}")
    out.line("   Written by torchship from an archive; do not edit. */")
    out.line(f"#ifndef {guard}")
    out.line(f"#define {guard}")
    out.line("#include <stddef.h>")
    out.line("#include <stdint.h>")
    out.line("#ifdef __cplusplus")
    out.line('extern "C" {')
    out.line("#endif")
    out.line()
    out.line("/* What a call returns. */")
    out.line(f"#define {p.upper()}_OK 0")
    out.line(
        f"#define {p.upper()}_RAISED 1 /* the model refused its inputs; out->message says why */"
    )
    out.line(
        f"#define {p.upper()}_BAD_ARGUMENT 2 /* a pointer is missing, or a size is negative */"
    )
    out.line()
    weights.declare(out, unit)
    out.line(
        "/* Facts about this code as JSON: the archive's digest, the methods and their fields. */"
    )
    out.line(f"const char *{p}_info(void);")
    for method in unit.methods:
        _declare(out, unit, method)
    if unit.cases:
        selftest.declare(out, unit)
    out.line()
    out.line("#ifdef __cplusplus")
    out.line("}")
    out.line("#endif")
    out.line("#endif")
    return out.text()


def _declare(out: Writer, unit: Unit, method: CompiledMethod) -> None:
    p, name = unit.prefix, f"{unit.prefix}_{method.program.name}"
    out.line()
    out.line(f"/* --- {method.program.name} --- */")
    with out.block("typedef struct"):
        for field in method.interface.inputs:
            out.line(_field(field, const=True))
    out.lines[-1] += f" {name}_in;"
    with out.block("typedef struct"):
        for field in method.interface.outputs:
            out.line(_field(field, const=False))
        out.line("char *message; /* gets the text of an error; may be NULL */")
        out.line("int64_t message_size; /* of that buffer, in bytes */")
    out.lines[-1] += f" {name}_out;"
    out.line("/* The bytes of workspace that a call with these sizes needs. */")
    out.line(f"size_t {name}_workspace_size(const {name}_in *in);")
    out.line("/* Stores the shape of an output, by its number, and returns its number of axes. */")
    out.line(f"int {name}_shape(const {name}_in *in, int output, int64_t *shape);")
    of_null = "" if unit.weights_apart else "Weights of NULL are the archive's. "
    out.line(
        f"/* Computes the outputs. {of_null}Different calls may run at the same time with "
        "different workspaces; outputs may not overlap inputs. */"
    )
    out.line(f"{_head(p, name)};")


def _head(p: str, name: str) -> str:
    return (
        f"int {name}(const {p}_weights *weights, const {name}_in *in, const {name}_out *out, "
        "void *workspace)"
    )


def _field(field: Field, const: bool) -> str:
    if field.kind == "size":
        return f"int64_t {field.name};"
    if field.kind in ("int", "bool"):
        return f"int64_t {field.name};" + (" /* 0 or 1 */" if field.kind == "bool" else "")
    if field.kind == "float":
        return f"double {field.name};"
    shape = "[" + ", ".join(_public(size) for size in field.shape) + "]"
    note = f"{field.dtype}{shape}" + ("; may be NULL" if field.optional else "")
    note += f"; {field.note}" if field.note else ""
    kind = f"{'const ' if const else ''}{c_type(field.dtype)}"
    return f"{kind} *{field.name}; /* {comment_text(note)} */"


def _public(size: sizes.Size) -> str:
    text = sizes.c_text(size)
    return BATCH if text == "rows" else text.replace("rows", BATCH)


# --- the source ---


def source(unit: Unit) -> str:
    """Return the text of the C file."""
    methods = Writer()
    for method in unit.methods:
        _method(methods, unit, method)
    body = methods.text()
    kernels = kernel_sources.needed(body)
    out = Writer()
    out.line(f"/* {comment_text(unit.title)}")
    out.line(
        "   Written by torchship from an archive; do not edit. "
        "Compile with -O3 -ffp-contract=off. */"
    )
    out.line("#ifndef TS_ONCE")
    out.line("#define TS_ONCE")
    out.line("#include <math.h>")
    out.line("#include <string.h>")
    out.line(f'#include "{unit.prefix}.h"')
    _instruction_sets(out)
    out.line(kernel_sources.source("portable").rstrip())
    for name in sorted(set().union(*(kernel_sources.defined(k) for k in kernels))):
        out.line(f"#define {name} TS_NAME({name})")
    out.line(kernel_sources.source("integers").rstrip())
    out.line(kernel_sources.source("text").rstrip())
    out.line(f"#define TS_RAISED {unit.prefix.upper()}_RAISED")
    weights.emit(out, unit)
    for method in unit.methods:
        rows = f"{unit.prefix}_{method.program.name}_rows"
        out.line(f"#define {rows} TS_NAME({rows})")
    _passes(out)
    for method in unit.methods:
        _entry(out, unit, method)
    _info(out, unit)
    if unit.cases:
        selftest.call_size(out, unit.prefix, unit.methods, unit.cases)
        selftest.emit(out, unit)
    out.line("#else")
    out.line(kernel_sources.source("passes_begin").rstrip())
    for name in kernels:
        out.line(kernel_sources.source(name).rstrip())
    out.line(body.rstrip())
    out.line(kernel_sources.source("passes_end").rstrip())
    out.line("#endif")
    return out.text()


def _instruction_sets(out: Writer) -> None:
    out.line("#if defined(TS_ONLY_PLAIN)")
    out.line("#define TS_PLAIN")
    out.line("#elif defined(__GNUC__) && defined(__x86_64__)")
    out.line("#include <immintrin.h>")
    out.line("#define TS_X86")
    out.line("#elif defined(__GNUC__) && defined(__aarch64__)")
    out.line("#include <arm_neon.h>")
    out.line("#elif defined(__wasm_simd128__)")
    out.line("#include <wasm_simd128.h>")
    out.line("#else")
    out.line("#define TS_PLAIN")
    out.line("#endif")


def _passes(out: Writer) -> None:
    """Write the inclusions of the file in itself, one for each instruction set."""
    out.line("#if defined(TS_X86)")
    for name in ("AVX512", "AVX2", "SSE2"):
        guard = " && ".join(
            f"!defined(TS_ONLY_{other})" for other in ("AVX512", "AVX2", "SSE2") if other != name
        )
        out.line(f"#if {guard}")
        out.line(f"#define TS_PASS_{name}")
        out.line("#include __FILE__")
        out.line(f"#undef TS_PASS_{name}")
        out.line("#endif")
    out.line("#else")
    out.line("#if defined(TS_PLAIN)")
    out.line("#elif defined(__aarch64__)")
    out.line("#define TS_PASS_NEON")
    out.line("#else")
    out.line("#define TS_PASS_WASM")
    out.line("#endif")
    out.line("#include __FILE__")
    out.line("#endif")


def _method(out: Writer, unit: Unit, method: CompiledMethod) -> None:
    """Write the function that computes some rows of a batch, or the whole."""
    p, name = unit.prefix, f"{unit.prefix}_{method.program.name}"
    program, interface = method.program, method.interface
    out.line()
    with out.block(
        f"TS_FUNCTION int {name}_rows(const {p}_weights *w, const {name}_in *in, "
        f"const {name}_out *out, int64_t first, int64_t rows, char *workspace, ts_message *message)"
    ):
        body = Writer(1)
        statements.emit_all(body, program.statements)
        _drop_unread_variables(body)
        named = _words(body)
        declared = Writer(1)
        offsets = {s.name for size in method.plan.offsets.values() for s in sizes.symbols_of(size)}
        for field in interface.inputs:
            if field.kind == "tensor":
                if field.storage is not None and field.storage.name in named:
                    kind = c_type(field.dtype)
                    declared.line(f"const {kind} *const {field.storage.name} = {_input(field)};")
                continue
            variable = BATCH if field.leaf == BATCH and field.kind == "size" else field.variable
            if variable in named or variable in offsets:
                kind = {"float": "double", "bool": "int"}.get(field.kind, "int64_t")
                declared.line(
                    f"const {kind} {variable} = {'(int)' if kind == 'int' else ''}in->{field.name};"
                )
        for field in interface.outputs:
            if field.storage is not None and field.storage.name in named:
                place = f"out->{field.name}{_first(field)}"
                declared.line(f"{c_type(field.dtype)} *const {field.storage.name} = {place};")
        for storage, offset in method.plan.offsets.items():
            kind = c_type(storage.dtype)
            place = "workspace" if offset == 0 else f"(workspace + {sizes.c_text(offset)})"
            declared.line(f"{kind} *const {storage.name} = ({kind} *)(void *){place};")
        named |= _words(declared)
        for name_ in ("w", "in", "out", "first", "rows", "workspace", "message"):
            if name_ not in named:
                out.line(f"(void){name_};")
        out.lines += declared.lines + body.lines
        out.line("return 0;")


def _drop_unread_variables(body: Writer) -> None:
    """Leave out variables that are only set, of which a compiler would warn."""
    declared = re.compile(
        r"\s*(?:const )?(?:int64_t|double|int|(?:const )?\w+_t \*|const float \*) ?(\w+) = [^;{]*;"
    )
    while True:
        counts = Counter(re.findall(r"\w+", _code(body)))
        names = {m[1] for line in body.lines if (m := declared.fullmatch(line))}
        unread = set()
        for name in names:
            sets = re.compile(rf"\s*(?:[\w* ]*[ *])?{name} = [^;{{]*;")
            own = [line for line in body.lines if sets.fullmatch(line)]
            if sum(len(re.findall(rf"\b{name}\b", line)) for line in own) == counts[name]:
                unread |= set(own)
        if not unread:
            return
        body.lines = [line for line in body.lines if line not in unread]


def _code(written: Writer) -> str:
    """Return the C without comments and texts."""
    return re.sub(r'/\*.*?\*/|"(?:[^"\\]|\\.)*"', "", "\n".join(written.lines), flags=re.S)


def _words(written: Writer) -> set[str]:
    """Return the words of C, without those of comments and texts."""
    return set(re.findall(r"\w+", _code(written)))


def _input(field: Field) -> str:
    first = _first(field)
    if field.optional and first:
        return f"in->{field.name} ? in->{field.name}{first} : NULL"
    return f"in->{field.name}{first}"


def _first(field: Field) -> str:
    """Return the offset of the first row that is computed."""
    if field.batch_axis is None:
        return ""
    inner = sizes.product(field.shape[field.batch_axis + 1 :])
    step = sizes.c_text(sizes.simple(sizes.symbol("first") * inner))
    return f" + {step}"


def _entry(out: Writer, unit: Unit, method: CompiledMethod) -> None:
    """Write the functions of the interface: they check, split the batch, choose instructions."""
    p, name = unit.prefix, f"{unit.prefix}_{method.program.name}"
    interface = method.interface
    allowed = {"rows", *(f.variable for f in interface.inputs)}
    for symbol in sizes.symbols_of(method.plan.total):
        if symbol.name not in allowed:
            raise UnsupportedError(
                f"method '{method.program.name}': the size of a tensor depends on values ({symbol})"
            )
    fields = [f for f in interface.inputs if f.kind in ("size", "int")]
    out.line()
    with out.block(f"size_t {name}_workspace_size(const {name}_in *in)"):
        _size_variables(out, fields, method.piece)
        out.line(f"const int64_t bytes = {sizes.c_text(method.plan.total)};")
        out.line("return (size_t)bytes + 64;")
    with out.block(f"int {name}_shape(const {name}_in *in, int output, int64_t *shape)"):
        _size_variables(out, fields, 0)
        if not any(field.shape for field in interface.outputs):
            out.line("(void)shape;")
        with out.block("switch (output)"):
            for number, field in enumerate(interface.outputs):
                out.line(f"case {number}: /* {comment_text(field.leaf)} */")
                with out.indented():
                    for axis, size in enumerate(field.shape):
                        out.line(f"shape[{axis}] = {sizes.c_text(size)};")
                    out.line(f"return {len(field.shape)};")
            out.line("default: return -1;")
    rows = f"{name}_rows"
    with out.block(_head(p, name)):
        out.line("if (!in || !out || !workspace) return " + f"{p.upper()}_BAD_ARGUMENT;")
        out.line("ts_message message = {out->message, out->message_size, 0};")
        out.line('ts_say(&message, "");')
        out.line("char *memory = (char *)workspace + (64 - (uintptr_t)workspace % 64) % 64;")
        if unit.weights_apart:
            _refuse(out, p, "!weights", f"weights is NULL: give what {p}_weights_from returned")
        else:
            out.line(f"if (!weights) weights = &{p}_archive_weights;")
        for field in interface.inputs:
            if field.kind == "size":
                _refuse(out, p, f"in->{field.name} < 0", f"in->{field.name} is negative")
            elif field.kind == "tensor" and not field.optional:
                _refuse(out, p, f"!in->{field.name}", f"in->{field.name} is NULL")
        for field in interface.outputs:
            _refuse(out, p, f"!out->{field.name}", f"out->{field.name} is NULL")
        batch = next(
            (f"in->{f.name}" for f in interface.inputs if f.leaf == BATCH and f.kind == "size"), "0"
        )
        out.line(
            f"int (*compute)(const {p}_weights *, const {name}_in *, const {name}_out *, "
            "int64_t, int64_t, char *, ts_message *);"
        )
        _choose(out, rows)
        if method.piece:
            out.line("int64_t first = 0;")
            with out.block("do"):
                piece = method.piece
                out.line(
                    f"const int64_t rest = {batch} - first, rows = rest < {piece} ? rest : {piece};"
                )
                out.line(
                    "const int status = compute(weights, in, out, first, rows, memory, &message);"
                )
                out.line("if (status) return status;")
                out.line("first += rows;")
            out.lines[-1] += f" while (first < {batch});"
            out.line("return 0;")
        else:
            out.line(f"return compute(weights, in, out, 0, {batch}, memory, &message);")


def _size_variables(out: Writer, fields: Sequence[Field], piece: int) -> None:
    out.line("(void)in;")
    for field in fields:
        value = f"in->{field.name}"
        if field.leaf == BATCH and piece and field.kind == "size":
            value = f"in->{field.name} < {piece} ? in->{field.name} : {piece}"
        out.line(f"const int64_t {field.variable} = {value};")
        out.line(f"(void){field.variable};")


def _refuse(out: Writer, p: str, condition: str, text: str) -> None:
    with out.block(f"if ({condition})"):
        out.line(f"ts_say(&message, {string_literal(text)});")
        out.line(f"return {p.upper()}_BAD_ARGUMENT;")


def _choose(out: Writer, rows: str) -> None:
    out.line("#if defined(TS_X86)")
    out.line("#if defined(TS_ONLY_AVX512)")
    out.line(f"compute = {_suffixed(rows, 'avx512')};")
    out.line("#elif defined(TS_ONLY_AVX2)")
    out.line(f"compute = {_suffixed(rows, 'avx2')};")
    out.line("#elif defined(TS_ONLY_SSE2)")
    out.line(f"compute = {_suffixed(rows, 'sse2')};")
    out.line("#else")
    features = ("avx512f", "avx512dq", "avx512bw", "avx512vl")
    supported = " && ".join(f'__builtin_cpu_supports("{feature}")' for feature in features)
    out.line(f"if ({supported}) compute = {_suffixed(rows, 'avx512')};")
    out.line(
        'else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) '
        f"compute = {_suffixed(rows, 'avx2')};"
    )
    out.line(f"else compute = {_suffixed(rows, 'sse2')};")
    out.line("#endif")
    out.line("#elif defined(TS_PLAIN)")
    out.line(f"compute = {_suffixed(rows, 'plain')};")
    out.line("#elif defined(__aarch64__)")
    out.line(f"compute = {_suffixed(rows, 'neon')};")
    out.line("#else")
    out.line(f"compute = {_suffixed(rows, 'wasm')};")
    out.line("#endif")


def _suffixed(name: str, suffix: str) -> str:
    return f"{name}_{suffix}"


# --- facts ---


def info(unit: Unit) -> dict[str, object]:
    """Return what `<name>_info` tells as JSON."""
    return {
        "prefix": unit.prefix,
        "archive": unit.digest,
        "methods": {
            method.program.name: {
                "inputs": [
                    {
                        "name": f.name,
                        "leaf": f.leaf,
                        "kind": f.kind,
                        "dtype": f.dtype,
                        "optional": f.optional,
                        "shape": list(f.symbols),
                    }
                    for f in method.interface.inputs
                ],
                "outputs": [
                    {"name": f.name, "leaf": f.leaf, "dtype": f.dtype, "rank": len(f.shape)}
                    for f in method.interface.outputs
                ],
                "state": [
                    {"input": state.input, "output": state.output}
                    for state in unit.signatures[method.program.name].state
                ],
            }
            for method in unit.methods
        },
    }


def _info(out: Writer, unit: Unit) -> None:
    text = json.dumps(info(unit))
    out.line()
    with out.block(f"const char *{unit.prefix}_info(void)"):
        if len(text) <= LONGEST_TEXT:
            out.line("static const char text[] =")
            for start in range(0, len(text), 70):
                out.line(f"    {string_literal(text[start : start + 70])}")
            out.lines[-1] += ";"
        else:
            out.line("static const char text[] = {")
            codes = [*text.encode(), 0]
            for start in range(0, len(codes), 20):
                out.line("    " + ", ".join(map(str, codes[start : start + 20])) + ",")
            out.lines[-1] = out.lines[-1].removesuffix(",") + "};"
        out.line("return text;")
    out.line("#if defined(TORCHSHIP_LIBRARY)")
    out.line("const char *torchship_native_info(void);")
    with out.block("const char *torchship_native_info(void)"):
        out.line(f"return {unit.prefix}_info();")
    out.line("#endif")
