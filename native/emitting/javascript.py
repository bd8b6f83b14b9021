"""The module beside the WebAssembly: methods by name, typed arrays in and out."""

from __future__ import annotations

import json
import re
from pathlib import Path

from torchship.native.emitting.source import info
from torchship.native.emitting.unit import Unit
from torchship.native.emitting.writer import comment_text
from torchship.ui import PAGE

RUNTIME = PAGE / "ui" / "engine" / "wasm.mjs"
TEMPLATE = Path(__file__).resolve().parent.parent / "web" / "model.mjs"
ARRAYS = {
    "float32": "Float32Array",
    "float64": "Float64Array",
    "int64": "BigInt64Array",
    "int32": "Int32Array",
    "int16": "Int16Array",
    "int8": "Int8Array",
    "uint8": "Uint8Array",
    "bool": "Uint8Array",
}


def module(unit: Unit, file: str) -> str:
    """Return the text of `<file>.mjs`, which loads `<file>.wasm`."""
    known = json.dumps(info(unit), indent=1)
    values = {
        "@TITLE@": comment_text(unit.title),
        "@FILE@": file,
        "@INFO@": known,
        "@RUNTIME@": RUNTIME.read_text().rstrip(),
    }
    # In one pass: a title may contain "@INFO@", whose lines would not all be comments.
    return re.sub("|".join(values), lambda found: values[found[0]], TEMPLATE.read_text())


def types(unit: Unit) -> str:
    """Return the declarations for TypeScript."""
    lines = [
        f"// {comment_text(unit.title)}",
        "export class ModelError extends Error {}",
        "export class InputError extends Error {}",
        "export interface Session<I, O> {",
        "  state: Record<string, ArrayLike<number | bigint>>;",
        "  step(inputs: Partial<I>, sizes?: Record<string, number>): O;",
        "  reset(rows?: number[]): void;",
        "}",
    ]
    calls, sessions = [], []
    for method in unit.methods:
        name = method.program.name
        base = name[0].upper() + name[1:]
        lines.append(f"export interface {base}Inputs {{")
        for field in method.interface.inputs:
            if field.kind == "tensor":
                mark = "?" if field.optional else ""
                lines.append(f"  {json.dumps(field.leaf)}{mark}: {ARRAYS[field.dtype]} | number[];")
            elif field.kind != "size":
                kind = "number | bigint" if field.kind == "int" else "number"
                lines.append(f"  {json.dumps(field.leaf)}: {kind};")
        lines += ["}", f"export interface {base}Outputs {{"]
        lines += [
            f"  {json.dumps(field.leaf)}: {ARRAYS[field.dtype]} & {{ shape: number[] }};"
            for field in method.interface.outputs
        ]
        lines.append("}")
        sizes = "sizes?: Record<string, number>"
        calls.append(f'  call(method: "{name}", inputs: {base}Inputs, {sizes}): {base}Outputs;')
        sessions.append(f'  session(method: "{name}"): Session<{base}Inputs, {base}Outputs>;')
    lines += [
        "export class Model {",
        "  readonly info: object;",
        *calls,
        *sessions,
        "  selftest(): { differing: number; text: string };",
        "}",
        "export function load(",
        "  source?: string | URL | ArrayBuffer | Uint8Array | WebAssembly.Module,",
        "): Promise<Model>;",
    ]
    return "\n".join(lines) + "\n"
