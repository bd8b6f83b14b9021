"""Writes a site: the page, and each archive compiled to WebAssembly."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from torchship.native.building.wasm import compiler
from torchship.native.compiler import Code, compile_archive
from torchship.native.errors import UnsupportedError
from torchship.native.running.wasm import write_module
from torchship.native.site.folder import FACTS, replaced
from torchship.native.site.proof import prove
from torchship.script.errors import UsageError
from torchship.script.format.golden import to_safetensors
from torchship.script.runtime.archive import Archive
from torchship.ui import PAGE

MODULE = "model"
SERVERS = "swagger"
"""How the names of files begin that only a server's page needs."""


def write_site(archives: Sequence[Archive], target: Path) -> Path:
    """Write the page with these archives into a folder for any static host; return the folder.

    Raises:
        CompilerMissingError: there is no compiler for WebAssembly.
        NativeError: a compiled archive does not reproduce its golden cases.
        UnsupportedError: an operator has no C; the message names the archive, too.
        UsageError: two archives have one name, or the folder holds other things.
    """
    compiler()  # before all the work
    _check_names(archives)
    with replaced(target) as folder:
        _copy_page(folder)
        places = [folder / "models" / archive.require_manifest().name for archive in archives]
        with ThreadPoolExecutor(os.cpu_count()) as clangs:
            # clang takes longer than what comes before it, which Python does one by one.
            waiting = []
            for archive, place in zip(archives, places, strict=True):
                place.mkdir(parents=True)
                waiting.append(clangs.submit(write_module, _code(archive), place, MODULE))
            for archive, place, written in zip(archives, places, waiting, strict=True):
                written.result()
                _write_facts(archive, place)
        facts = {
            "form": "site",
            "version": version("torchship"),
            "models": [_listed(archive) for archive in archives],
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False))
    return target


def _check_names(archives: Sequence[Archive]) -> None:
    known: dict[str, Archive] = {}
    for archive in archives:
        # Some hosts do not tell upper case from lower case.
        name = archive.require_manifest().name.lower()
        if name in known:
            raise UsageError(
                f"'{archive.path}' and '{known[name].path}' are both named "
                f"'{archive.require_manifest().name}': a site holds one model of a name; leave one "
                "out"
            )
        known[name] = archive


def _copy_page(folder: Path) -> None:
    (folder / "index.html").write_bytes((PAGE / "index.html").read_bytes())
    for path in sorted(PAGE.glob("ui/**/*")):
        if path.is_file() and not path.name.startswith((SERVERS, ".")):
            place = folder / path.relative_to(PAGE)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _code(archive: Archive) -> Code:
    try:
        return compile_archive(archive)
    except UnsupportedError as error:
        raise UnsupportedError(f"'{archive.path.name}': {error}") from None


def _write_facts(archive: Archive, place: Path) -> None:
    """Write what a server says of an archive: archive.json, and the golden record."""
    (place / "golden.safetensors").write_bytes(to_safetensors(archive.golden))
    facts = {
        "manifest": json.loads(archive.require_manifest().to_json()),
        "sha256": archive.digest,
        "bytes": archive.size,
        "proof": prove(archive, place / f"{MODULE}.mjs"),
    }
    (place / "archive.json").write_text(json.dumps(facts, ensure_ascii=False))


def _listed(archive: Archive) -> dict[str, object]:
    manifest = archive.require_manifest()
    return {
        "name": manifest.name,
        "version": manifest.version,
        "description": manifest.description,
        "parameters": manifest.parameters,
        "bytes": archive.size,
        "sha256": archive.digest,
    }
