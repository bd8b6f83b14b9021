"""Several archives as one file of C, run by the program `tests/native/host.c` on any machine.

One file for many models is compiled much faster than many: the kernels are most of a small one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from torchship.native.compiler import compile_archive
from torchship.native.emitting import source
from torchship.native.emitting.places import c_type
from torchship.native.emitting.unit import CompiledMethod, Unit
from torchship.native.importing.method import Field
from torchship.native.ir.dtypes import ITEM_SIZES, TORCH
from torchship.script.format.golden import Case
from torchship.script.format.manifest import Method
from torchship.script.format.plain_tensors import plain
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import batch_axes, resize, row_count, take_rows
from torchship.script.runtime.program import check_inputs

HOST = Path(__file__).resolve().parent / "native" / "host.c"
FLAGS = ("-std=c11", "-ffp-contract=off", "-fno-math-errno", f"-I{HOST.parent}")
PREFIX = "all"


@dataclass(frozen=True)
class Call:
    """A call of a method by its name in the file, `<archive>_<method>`."""

    method: str
    inputs: Flat


@dataclass(frozen=True)
class Answer:
    """What a call returned: its status, the model's message, and the outputs if there are any."""

    status: int
    message: str
    outputs: Flat


@dataclass(frozen=True)
class Row:
    """One row of a call with many, and the call of that row alone: numbers of calls."""

    together: int
    index: int
    alone: int


class Hosted:
    """A file of C with the methods of archives, and the host around it."""

    def __init__(
        self, archives: Mapping[str, Archive], folder: Path, complete: bool = True
    ) -> None:
        """Write the C, its weights as a file, and the table of methods into a folder.

        What is not `complete` has no golden cases, and zeros for weights; a compiler reads that in
        a fraction of the time.
        """
        self.folder = folder
        cases: list[Case] = []
        methods: list[CompiledMethod] = []
        self.signatures: dict[str, Method] = {}
        for name, archive in archives.items():
            unit = compile_archive(archive, golden=False).unit
            known = {m.program.name: m for m in unit.methods}
            for storage in unit.weights:
                storage.name = f"{_word(name)}_{storage.name}"
            for method, compiled in known.items():
                compiled.program.name = self.name(name, method)
                self.signatures[compiled.program.name] = unit.signatures[method]
            methods += unit.methods
            cases += [replace(c, method=self.name(name, c.method)) for c in archive.golden]
        self.unit = Unit(
            PREFIX, "Several archives", "", methods, self.signatures, cases if complete else ()
        )
        self.methods = {method.program.name: method for method in methods}
        (folder / f"{PREFIX}.h").write_text(source.header(self.unit))
        text = source.source(self.unit)
        (folder / f"{PREFIX}.c").write_text(text if complete else _without_weights(text))
        (folder / "table.c").write_text(table(self.unit))
        self.weights = folder / "weights"
        self.weights.write_bytes(weight_bytes(self.unit))

    @staticmethod
    def name(archive: str, method: str) -> str:
        """Return what a method of an archive is called here."""
        return f"{_word(archive)}_{method}"

    def build(self, name: str, compiler: str, *options: str) -> Path:
        """Compile the program and return its path; the object of the C lies beside it."""
        target, code = self.folder / name, self.folder / f"{name}.o"
        command = [compiler, *FLAGS, *options]
        subprocess.run([*command, "-c", self.folder / f"{PREFIX}.c", "-o", code], check=True)
        files = [self.folder / "table.c", HOST, code]
        subprocess.run([*command, *files, "-o", target, "-lm"], check=True)
        return target

    def selftest(self, command: Sequence[object]) -> str:
        """Let a program run the golden cases; return what is wrong, or an empty text."""
        done = subprocess.run(
            [*map(str, command), "--selftest", "yes"],
            input=_word_bytes(-1),
            capture_output=True,
            check=False,
        )
        text = done.stderr.decode(errors="replace").strip()
        return text if done.returncode == 0 else text or f"exit status {done.returncode}"

    def run(
        self, command: Sequence[object], calls: Sequence[Call], embedded: bool = False
    ) -> list[Answer]:
        """Let a program make calls with the weights of the file, or those embedded in its code.

        Raises:
            AssertionError: it ended with an error.
        """
        data = b"".join(self._encoded(call) for call in calls) + _word_bytes(-1)
        done = subprocess.run(
            [*map(str, command), *([] if embedded else ["--weights", str(self.weights)])],
            input=data,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
        return self._decoded(done.stdout, calls)

    def _encoded(self, call: Call) -> bytes:
        method = self.methods[call.method]
        symbols = check_inputs(self.signatures[call.method], call.inputs)
        parts = [_word_bytes(list(self.methods).index(call.method))]
        for field in method.interface.inputs:
            parts += _encoded_field(field, call.inputs, symbols)
        return b"".join(parts)

    def _decoded(self, data: bytes, calls: Sequence[Call]) -> list[Answer]:
        reader = _Reader(data)
        answers = []
        for call in calls:
            status, text = reader.word(), reader.bytes(reader.word()).decode(errors="replace")
            outputs: Flat = {}
            if status == 0:
                for field in self.methods[call.method].interface.outputs:
                    raw = reader.bytes(reader.word())
                    outputs[field.leaf] = self._tensor(call, field, raw)
            answers.append(Answer(status, text, outputs))
        assert reader.at == len(data)
        return answers

    def _tensor(self, call: Call, field: Field, raw: bytes) -> torch.Tensor:
        dtype = TORCH[field.dtype]
        flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        words: dict[str, int] = {}
        symbols = check_inputs(self.signatures[call.method], call.inputs)
        for given in self.methods[call.method].interface.inputs:
            if given.kind in ("size", "int"):
                words[given.variable] = _number(given, call.inputs, symbols)
        shape = []
        for size in field.shape:
            known = {s: words[s.name] for s in getattr(size, "free_symbols", ())}
            shape.append(int(size.xreplace(known)) if known else int(size))
        return flat.reshape(shape)


def calls_of(hosted: Hosted, archives: dict[str, Archive]) -> tuple[list[Call], list[Row]]:
    """Return calls of every method: golden cases, rows alone, and batches around a piece."""
    calls: list[Call] = []
    rows: list[Row] = []
    for name, archive in archives.items():
        for case in archive.golden:
            calls.append(Call(hosted.name(name, case.method), case.steps[0].inputs))
        for method, signature in archive.require_manifest().methods.items():
            axes = batch_axes(signature)
            known = hosted.methods[hosted.name(name, method)]
            if not axes:
                continue
            assert known.piece, "a batch that is not computed in pieces"
            cases = [case.steps[0].inputs for case in archive.golden if case.method == method]
            inputs = max(cases, key=lambda flat: (row_count(flat, axes), len(flat)))
            count = row_count(inputs, axes)
            first = len(calls)
            for row in range(count):
                calls.append(Call(known.program.name, take_rows(inputs, axes, [row])))
            piece = known.piece
            for size in (0, 3, piece - 1, piece, piece + 1, 2 * piece + 1):
                rows += [Row(len(calls), row, first + row % count) for row in range(size)]
                batch = resize(inputs, axes, size) if size else take_rows(inputs, axes, [])
                calls.append(Call(known.program.name, batch))
    return calls, rows


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    bits = {1: torch.uint8, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.shape == b.shape and torch.equal(a.view(bits), b.view(bits))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def bytes(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def word(self) -> int:
        return int.from_bytes(self.bytes(8), "little", signed=True)


def _word(name: str) -> str:
    return name.replace("-", "_")


def _word_bytes(value: int) -> bytes:
    return value.to_bytes(8, "little", signed=True)


def _number(field: Field, inputs: Flat, symbols: Mapping[str, int]) -> int:
    """Return a size or a number as an integer; a float as its bits."""
    if field.kind == "float":
        return int(np.float64(float(inputs[field.leaf])).view(np.int64))
    if field.kind != "size":
        return int(inputs[field.leaf])
    if field.leaf in symbols:
        return symbols[field.leaf]
    leaf, _, axis = field.leaf.rpartition(".")
    return inputs[leaf].shape[int(axis)] if leaf in inputs else 0


def _encoded_field(field: Field, inputs: Flat, symbols: Mapping[str, int]) -> Iterable[bytes]:
    if field.kind != "tensor":
        yield _word_bytes(0)
        yield _word_bytes(_number(field, inputs, symbols))
    elif field.leaf not in inputs:
        yield _word_bytes(1)
    else:
        tensor = plain(inputs[field.leaf]).contiguous()
        raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        yield _word_bytes(2) + _word_bytes(ITEM_SIZES[field.dtype]) + _word_bytes(len(raw)) + raw


def _without_weights(text: str) -> str:
    """Return the C with zeros for weights, which takes a compiler much less time to read."""
    begin = text.index(f"{PREFIX}_archive_weights = {{")
    end = text.index("\n};", begin)
    return f"{text[:begin]}{PREFIX}_archive_weights = {{{{0}}{text[end:]}"


def weight_bytes(unit: Unit) -> bytes:
    """Return the struct of weights as bytes: each array is padded to a multiple of 64 bytes."""
    parts = []
    for storage in unit.weights:
        assert storage.value is not None
        raw = storage.value.view(torch.uint8).numpy().tobytes() if storage.value.numel() else b""
        parts.append(raw + bytes(-len(raw) % 64))
    return b"".join(parts)


def table(unit: Unit) -> str:
    """Return C with the table of methods that the host calls."""
    lines = [f'#include "{unit.prefix}.h"', '#include "host.h"', "#include <string.h>"]
    lines.append(f"const size_t host_weights_size = sizeof({unit.prefix}_weights);")
    for number, method in enumerate(unit.methods):
        lines += _functions(unit.prefix, number, method)
    selftest = f"{unit.prefix}_selftest" if unit.cases else ""
    size = f"{selftest}_workspace_size" if unit.cases else "NULL"
    lines.append(
        f"int (*const host_selftest)(void *, char *, int64_t) = {selftest or 'NULL'};\n"
        f"size_t (*const host_selftest_workspace_size)(void) = {size};"
    )
    lines.append("const host_method host_methods[] = {")
    for number, method in enumerate(unit.methods):
        interface = method.interface
        lines.append(
            f"  {{{len(interface.inputs)}, {len(interface.outputs)}, item_sizes_{number}, "
            f"workspace_size_{number}, shape_{number}, run_{number}}},"
        )
    return "\n".join([*lines, "};", ""])


def _functions(prefix: str, number: int, method: CompiledMethod) -> list[str]:
    name, interface = f"{prefix}_{method.program.name}", method.interface
    items = ", ".join(str(ITEM_SIZES[field.dtype]) for field in interface.outputs)
    lines = [f"static const int item_sizes_{number}[] = {{{items}}};"]
    lines.append(f"static {name}_in in_{number}(const int64_t *words) {{")
    lines.append(f"  {name}_in in;")
    for n, field in enumerate(interface.inputs):
        if field.kind == "float":
            lines.append(f"  memcpy(&in.{field.name}, &words[{n}], sizeof in.{field.name});")
        else:
            lines.append(f"  in.{field.name} = {_pointer(field, f'words[{n}]', 'const ')};")
    lines += ["  return in;", "}"]
    lines.append(f"static size_t workspace_size_{number}(const int64_t *words) {{")
    lines.append(f"  const {name}_in in = in_{number}(words);")
    lines += [f"  return {name}_workspace_size(&in);", "}"]
    lines.append(f"static int shape_{number}(const int64_t *words, int output, int64_t *shape) {{")
    lines.append(f"  const {name}_in in = in_{number}(words);")
    lines += [f"  return {name}_shape(&in, output, shape);", "}"]
    lines.append(
        f"static int run_{number}(const void *weights, const int64_t *words, const int64_t *places,"
    )
    lines.append("    char *message, int64_t message_size, void *workspace) {")
    lines.append(f"  const {name}_in in = in_{number}(words);")
    lines.append(f"  {name}_out out;")
    for n, field in enumerate(interface.outputs):
        lines.append(f"  out.{field.name} = {_pointer(field, f'places[{n}]', '')};")
    lines += ["  out.message = message;", "  out.message_size = message_size;"]
    lines.append(f"  return {name}((const {prefix}_weights *)weights, &in, &out, workspace);")
    return [*lines, "}"]


def _pointer(field: Field, word: str, const: str) -> str:
    if field.kind != "tensor":
        return word
    return f"({const}{c_type(field.dtype)} *)(intptr_t){word}"
