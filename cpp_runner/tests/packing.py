"""Builds archives as docs/archive.md says, without the exporter."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import warnings
import zipfile
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

MANIFEST = "extra/torchship/manifest.json"
GOLDEN = "extra/torchship/golden.safetensors"
Json = dict[str, Any]


def tensor(name: str, dtype: str, *shape: int | str | None) -> Json:
    """Return a tensor node."""
    return {"kind": "tensor", "name": name, "dtype": dtype, "shape": list(shape)}


def argument(name: str, value: Json, required: bool = True) -> Json:
    """Return an argument of a method."""
    return {"name": name, "required": required, "value": value}


def manifest(name: str, methods: Json, golden: list[Json]) -> Json:
    """Return a manifest without its digests."""
    return {
        "format": 1,
        "name": name,
        "version": "1",
        "description": "",
        "source": {"factory": "make_artefacts:none", "kwargs": {}, "git_commit": None},
        "torch": torch.__version__,
        "mode": "script",
        "parameters": 0,
        "methods": methods,
        "golden": golden,
        "labels": {},
        "metrics": {},
        "custom_ops": [],
    }


def tiny_manifest() -> Json:
    """Return the manifest of `Tiny`, without its digests."""
    forward = {
        "inputs": [argument("x", tensor("x", "float32", "batch", 3))],
        "outputs": tensor("y", "float32", "batch", 3),
        "state": [],
        "tolerances": {"y": {"atol": 1e-6, "rtol": 1e-6}},
    }
    said = manifest(
        "tiny", {"forward": forward}, [{"name": "one", "method": "forward", "steps": 1}]
    )
    return {**said, "labels": {"y": ["red", "green", "blue"]}}


def tiny_golden() -> dict[str, Tensor]:
    """Return the golden case of `Tiny`."""
    x = torch.tensor([[0.5, -1.25, 3.0], [7.0, 0.1, -0.2]])
    return {"0/0/in/x": x, "0/0/out/y": x * 2 + 1}


def torchscript(module: nn.Module) -> bytes:
    """Return the bytes that torch.jit.save writes."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module.eval()), buffer)
    return buffer.getvalue()


def records_of(script: bytes) -> dict[str, bytes]:
    """Return every record by its name below the top folder."""
    with zipfile.ZipFile(io.BytesIO(script)) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def digests(records: dict[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each record."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in records.items()}


def zipped(entries: dict[str, bytes]) -> bytes:
    """Return a zip with these entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in entries.items():
            file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


def append(script: bytes, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return the zip with entries added."""
    buffer = io.BytesIO(script)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some tests need an archive with the same name twice
        with zipfile.ZipFile(buffer, "a", method) as file:
            for name, data in entries.items():
                file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, method)
    return buffer.getvalue()


def with_digests(
    script: bytes, said: Json, golden: dict[str, Tensor], drop: str = ""
) -> tuple[Json, bytes]:
    """Return the manifest with `records` (without `drop`) filled in, and the golden record."""
    own = {name: value.clone() for name, value in golden.items()}  # safetensors shares no memory
    saved = save(own)
    listed = said.get("records") or digests(records_of(script) | {GOLDEN: saved})
    kept = {name: value for name, value in listed.items() if name != drop}
    return {**said, "records": kept}, saved


def with_records(
    script: bytes, text: bytes, golden: bytes, method: int = zipfile.ZIP_STORED
) -> bytes:
    """Return an archive with this manifest text and this golden record."""
    with zipfile.ZipFile(io.BytesIO(script)) as file:
        top = file.namelist()[0].partition("/")[0]
    return append(script, {f"{top}/{GOLDEN}": golden, f"{top}/{MANIFEST}": text}, method)


def pack(
    script: bytes,
    said: Json,
    golden: dict[str, Tensor],
    method: int = zipfile.ZIP_STORED,
    drop: str = "",
) -> bytes:
    """Return an archive; the record `drop` is left out of the manifest's list."""
    said, saved = with_digests(script, said, golden, drop)
    return with_records(script, json.dumps(said).encode(), saved, method)


def mutated(said: Json, mutation: Json) -> bytes:
    """Return the text of a manifest with one change of tests/manifest_mutations.json made to it.

    A change has `raw` (the whole text, with `$MANIFEST` for the old one), or `path` (keys and
    indexes; an index one past the end appends) with `value` (any JSON), `text` (inserted
    unchanged, for text that is not a JSON value) or `delete`.
    """
    if "raw" in mutation:
        return str(mutation["raw"]).replace("$MANIFEST", json.dumps(said)).encode()
    said = copy.deepcopy(said)
    *way, last = mutation["path"]
    place: Any = said
    for step in way:
        place = place[step]
    if mutation.get("delete"):
        del place[last]
        return json.dumps(said).encode()
    mark = "the text goes here"
    value = mark if "text" in mutation else mutation["value"]
    if isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    text = json.dumps(said)
    return (text.replace(f'"{mark}"', mutation["text"]) if "text" in mutation else text).encode()
