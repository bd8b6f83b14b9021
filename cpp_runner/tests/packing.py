"""Archives put together by docs/archive.md alone, without the exporter."""

from __future__ import annotations

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


def append(script: bytes, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return the zip with entries added."""
    buffer = io.BytesIO(script)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a doubled name is what some tests want
        with zipfile.ZipFile(buffer, "a", method) as file:
            for name, data in entries.items():
                file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, method)
    return buffer.getvalue()


def pack(
    script: bytes,
    said: Json,
    golden: dict[str, Tensor],
    method: int = zipfile.ZIP_STORED,
    drop: str = "",
) -> bytes:
    """Return an archive; the record `drop` is left out of the manifest's list."""
    with zipfile.ZipFile(io.BytesIO(script)) as file:
        top = file.namelist()[0].partition("/")[0]
    own = {name: value.clone() for name, value in golden.items()}  # safetensors shares no memory
    records = records_of(script) | {GOLDEN: save(own)}
    said = {**said, "records": said.get("records") or digests(records)}
    said["records"] = {name: value for name, value in said["records"].items() if name != drop}
    added = {f"{top}/{GOLDEN}": records[GOLDEN], f"{top}/{MANIFEST}": json.dumps(said).encode()}
    return append(script, added, method)
