"""The archive file: writing it, and reading it without trusting it (docs/archive.md)."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script import operators, printing, torchscript
from torchship.script.errors import ArchiveError, OperatorError
from torchship.script.golden import Case, from_safetensors, to_safetensors
from torchship.script.manifest import Manifest, parse_manifest
from torchship.script.program import Program
from torchship.script.signing import check_signature

OURS = "extra/torchship/"
MANIFEST = f"{OURS}manifest.json"
GOLDEN = f"{OURS}golden.safetensors"
MAX_INFLATED = 4 << 30  # bytes

# As torch.jit.save does: a fixed time, so that the same module gives the same bytes.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def pack(script: bytes, manifest: Manifest, cases: Sequence[Case]) -> bytes:
    """Return an archive: a TorchScript zip with the golden record and the manifest added.

    The manifest's `records` are filled in here.
    """
    buffer = io.BytesIO(script)
    golden = to_safetensors(cases)
    with zipfile.ZipFile(buffer, "a") as file:
        top = PurePosixPath(file.namelist()[0]).parts[0]
        records = read_records(file, top)
        records[GOLDEN] = golden
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(records.items())}
        manifest = manifest.model_copy(update={"records": digests})
        for name, data in ((GOLDEN, golden), (MANIFEST, manifest.to_json())):
            file.writestr(zipfile.ZipInfo(f"{top}/{name}", ZIP_TIME), data)
    return buffer.getvalue()


def read_records(file: zipfile.ZipFile, top: str) -> dict[str, bytes]:
    """Read every record of an open zip, by its name below the top folder; CRCs are checked.

    Raises:
        ArchiveError: naming the record that is damaged, doubled, or where none may be.
    """
    records: dict[str, bytes] = {}
    room = MAX_INFLATED
    for info in file.infolist():
        parts = PurePosixPath(info.filename).parts
        if len(parts) < 2 or parts[0] != top or ".." in parts or "\\" in info.filename:
            raise ArchiveError(f"record '{info.filename}': expected a name below '{top}/'")
        name = info.filename[len(top) + 1 :]
        if name in records:
            raise ArchiveError(f"record '{name}' is there twice")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArchiveError(
                f"record '{name}': expected stored or deflate, got method {info.compress_type}"
            )
        room -= info.file_size
        if room < 0:
            raise ArchiveError(f"the records are larger than {MAX_INFLATED} bytes when inflated")
        try:
            records[name] = file.read(info)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as bad:
            raise ArchiveError(f"record '{name}' is damaged: {bad}") from None
        except NotImplementedError as unknown:
            raise ArchiveError(f"record '{name}' cannot be read: {unknown}") from None
    return records


@dataclass(frozen=True)
class Archive:
    """An archive whose bytes were read once and checked; nothing of it has been run.

    `manifest` is None for a plain TorchScript file, for which nothing vouches.
    """

    path: Path
    data: bytes
    records: dict[str, bytes]
    manifest: Manifest | None
    digest: str
    """SHA-256 of the file, in hexadecimal digits."""

    @property
    def vouched(self) -> Manifest:
        """The manifest.

        Raises:
            ArchiveError: a plain TorchScript file has none.
        """
        if self.manifest is None:
            raise ArchiveError(
                f"'{self.path.name}' is a plain TorchScript file without a TorchShip manifest: "
                "nothing vouches for it; make an archive with `torchship script`"
            )
        return self.manifest

    @cached_property
    def golden(self) -> list[Case]:
        """The golden cases."""
        manifest = self.vouched
        if GOLDEN not in self.records:
            raise ArchiveError(f"the archive has no record '{GOLDEN}'")
        return from_safetensors(self.records[GOLDEN], manifest.golden, manifest.methods)

    def load(self, device: str | torch.device = "cpu") -> torch.jit.ScriptModule:
        """Load the TorchScript module from the bytes that were checked.

        Raises:
            ArchiveError: LibTorch refuses it.
            OperatorError: a custom operator that it needs is not there; see `operators.load`.
        """
        try:
            operators.load(self.manifest.custom_ops if self.manifest else ())
        except OperatorError as error:
            where = f"'{self.path.name}': "
            raise OperatorError(f"{where}{error}", f"{where}{error.public}") from None
        # A module may run code while it is loaded.
        with printing.by(self.manifest.name if self.manifest else self.path.stem):
            return torchscript.load(self.data, device)

    def program(self, device: str | torch.device = "cpu") -> Program:
        """Load the module behind its signature, to run on that device."""
        return Program(self.vouched, self.load(device), device)


def open_archive(path: Path, trusted_keys: Sequence[Ed25519PublicKey] = ()) -> Archive:
    """Read a file once, check its signature if keys are given, its zip, its digests.

    Raises:
        ArchiveError: the file cannot be read, is not signed by a trusted key, is damaged or too
            new; the message says which record and why.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"cannot read '{path}': {error.strerror}") from None
    if trusted_keys:
        check_signature(path, data, trusted_keys)
    return parse_archive(path, data)


def parse_archive(path: Path, data: bytes) -> Archive:
    """Check an archive's bytes: its zip, its manifest, its digests. `path` is for messages.

    Raises:
        ArchiveError: as for `open_archive`.
    """
    try:
        records, manifest = _check(data)
    except ArchiveError as error:
        raise ArchiveError(f"'{path.name}': {error}") from None
    return Archive(path, data, records, manifest, hashlib.sha256(data).hexdigest())


def _check(data: bytes) -> tuple[dict[str, bytes], Manifest | None]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            names = file.namelist()
            if not names or "/" not in names[0]:
                raise ArchiveError("not a TorchScript file: expected records below one folder")
            found = read_records(file, names[0].split("/", 1)[0])
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError) as error:
        raise ArchiveError(f"not a readable zip: {error}") from None
    if "data.pkl" not in found or "constants.pkl" not in found:
        raise ArchiveError("not a TorchScript file: it has no 'data.pkl' and 'constants.pkl'")
    if MANIFEST not in found:
        # Damage must not pass for a file that never had a manifest. One flipped byte (the length
        # of an entry's comment) hides the records behind it from Python, not from LibTorch.
        both = [*found, *torchscript.records(data)]
        lost = next((name for name in both if name.startswith(OURS)), None)
        if lost is not None:
            raise ArchiveError(f"it holds the record '{lost}' but no manifest")
        return found, None
    # The manifest's own bytes are those whose CRC-32 was checked above.
    manifest = parse_manifest(found[MANIFEST])
    records = torchscript.records(data) | {MANIFEST: found[MANIFEST]}
    listed = manifest.records
    for name, content in records.items():
        if name == MANIFEST:
            continue
        if name not in listed:
            raise ArchiveError(f"record '{name}' is not listed in the manifest")
        digest = hashlib.sha256(content).hexdigest()
        if digest != listed[name]:
            raise ArchiveError(
                f"record '{name}' is damaged: expected SHA-256 {listed[name]}, got {digest}"
            )
    missing = sorted(set(listed) - set(records))
    if missing:
        raise ArchiveError(f"record '{missing[0]}' is missing")
    return records, manifest
