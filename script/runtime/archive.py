"""The archive file: writing it, and reading it without trusting it (docs/archive.md)."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import BinaryIO

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import ArchiveError, OperatorError
from torchship.script.format import float64_outputs
from torchship.script.format.file_content import (
    BLOCK,
    MAX_FILE,
    MAX_INFLATED,
    Content,
    read_blocks,
)
from torchship.script.format.float64_outputs import Float64Outputs
from torchship.script.format.golden import Case, from_safetensors, to_safetensors
from torchship.script.format.manifest import Manifest, parse_manifest
from torchship.script.format.signing import check_signature
from torchship.script.runtime import operators, printing, torchscript
from torchship.script.runtime.floating_point import default_mode
from torchship.script.runtime.malloc_trim import trim_malloc
from torchship.script.runtime.program import Program
from torchship.script.runtime.trace_warnings import TraceWarning, from_record, to_record

OURS = "extra/torchship/"
MANIFEST = f"{OURS}manifest.json"
GOLDEN = f"{OURS}golden.safetensors"
TRACE_WARNINGS = f"{OURS}trace_warnings.json"
FLOAT64_OUTPUTS = f"{OURS}float64_outputs.safetensors"
LARGE = 1 << 20  # bytes of a file; trimming after smaller ones does not pay
DOS_FOLDER = 0x10  # in a record's file attributes

# A fixed time, as torch.jit.save uses, so that the same module gives the same bytes.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def pack(script: bytes, manifest: Manifest, cases: Sequence[Case]) -> bytes:
    """Return an archive: a TorchScript zip with the golden record and the manifest added.

    The manifest's `records` are filled in.
    """
    buffer = io.BytesIO(script)
    add_records(buffer, manifest, cases)
    return buffer.getvalue()


def add_records(
    script: BinaryIO,
    manifest: Manifest,
    cases: Sequence[Case],
    trace_warnings: Sequence[TraceWarning] = (),
    outputs_in_float64: Float64Outputs = MappingProxyType({}),
) -> None:
    """Turn a TorchScript zip, open for reading and writing, into an archive; see `pack`."""
    ours = {GOLDEN: to_safetensors(cases)}
    if trace_warnings:
        ours[TRACE_WARNINGS] = to_record(trace_warnings)
    if outputs_in_float64:
        ours[FLOAT64_OUTPUTS] = float64_outputs.to_safetensors(outputs_in_float64)
    found = {name: hashlib.sha256(data) for name, data in ours.items()}
    with zipfile.ZipFile(script, "a") as file:
        top = PurePosixPath(file.namelist()[0]).parts[0]
        read_records(
            file, top, lambda name, block: found.setdefault(name, hashlib.sha256()).update(block)
        )
        digests = {name: digest.hexdigest() for name, digest in sorted(found.items())}
        manifest = manifest.model_copy(update={"records": digests})
        ours[MANIFEST] = manifest.to_json()
        for name, data in ours.items():
            file.writestr(zipfile.ZipInfo(f"{top}/{name}", ZIP_TIME), data)


def read_records(file: zipfile.ZipFile, top: str, take: Callable[[str, bytes], None]) -> None:
    """Read every record of an open zip, checking CRCs.

    `take` is called with each record's name below the top folder, and its bytes block by block;
    an empty record gives one empty block.

    Raises:
        ArchiveError: a record is damaged, duplicate or outside the top folder, which it names.
    """
    names = set()
    room = MAX_INFLATED
    for info in file.infolist():
        parts = PurePosixPath(info.filename).parts
        if len(parts) < 2 or parts[0] != top or ".." in parts or "\\" in info.filename:
            raise ArchiveError(f"record '{info.filename}': expected a name below '{top}/'")
        name = info.filename[len(top) + 1 :]
        if name in names:
            raise ArchiveError(f"record '{name}' is there twice")
        names.add(name)
        if info.external_attr & DOS_FOLDER:
            raise ArchiveError(f"record '{name}' is marked as a folder: expected a file")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArchiveError(
                f"record '{name}': expected stored or deflate, got method {info.compress_type}"
            )
        room -= info.file_size
        if room < 0:
            raise ArchiveError(f"the records are larger than {MAX_INFLATED} bytes when inflated")
        try:
            with file.open(info) as record:
                take(name, record.read(BLOCK))
                while block := record.read(BLOCK):
                    take(name, block)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as bad:
            raise ArchiveError(f"record '{name}' is damaged: {bad}") from None
        except NotImplementedError as unknown:
            raise ArchiveError(f"record '{name}' cannot be read: {unknown}") from None


class Archive:
    """An archive whose bytes were read once and checked, but not run.

    It holds the file's bytes until `release`, so that it can be loaded several times. `manifest`
    is None for a plain TorchScript file.
    """

    digest: str
    """SHA-256 of the file in hexadecimal digits."""
    size: int
    """Bytes of the file."""
    sizes: Mapping[str, int]
    """Inflated bytes of each record."""

    def __init__(
        self, path: Path, content: Content, sizes: Mapping[str, int], manifest: bytes | None
    ) -> None:
        """Take checked content; `manifest` is the bytes of that record."""
        self.path = path
        self.digest, self.size, self.sizes = content.digest, content.size, sizes
        self.manifest: Manifest | None = None if manifest is None else parse_manifest(manifest)
        self._manifest_record = manifest
        self._content: Content | None = content
        self._golden: Sequence[Case] | None = None

    def require_manifest(self) -> Manifest:
        """Return the manifest.

        Raises:
            ArchiveError: the file is plain TorchScript, without a manifest.
        """
        if self.manifest is None:
            raise ArchiveError(
                f"'{self.path.name}' is a plain TorchScript file without a TorchShip manifest: "
                "nothing vouches for it; make an archive with `torchship script` of a factory that "
                "makes the module, or that loads this file"
            )
        return self.manifest

    @property
    def _required_content(self) -> Content:
        if self._content is None:
            raise ArchiveError(f"'{self.path.name}' was released: open it again to load it again")
        return self._content

    def blocks(self) -> Iterator[bytes]:
        """Yield the file's bytes block by block.

        Raises:
            ArchiveError: the archive was released.
        """
        return self._required_content.blocks()

    @property
    def data(self) -> bytes:
        """A copy of the file's bytes.

        Raises:
            ArchiveError: the archive was released.
        """
        with self._required_content.view() as view:
            return bytes(view)

    @property
    def records(self) -> dict[str, bytes]:
        """A copy of every record, by name.

        Raises:
            ArchiveError: the archive was released.
        """
        records = torchscript.records(self._required_content.source)
        if self._manifest_record is not None:
            records[MANIFEST] = self._manifest_record
        return records

    @property
    def golden(self) -> Sequence[Case]:
        """The golden cases; after `release`, only those that it kept.

        Raises:
            ArchiveError: the golden record is missing, damaged, or does not match the manifest.
        """
        if self._golden is None:
            manifest = self.require_manifest()
            if GOLDEN not in self.sizes:
                raise ArchiveError(f"the archive has no record '{GOLDEN}'")

            self._golden = from_safetensors(self._record(GOLDEN), manifest.golden, manifest.methods)
        return self._golden

    @property
    def trace_warnings(self) -> tuple[TraceWarning, ...]:
        """The tracer's warnings that the archive's author allowed.

        Raises:
            ArchiveError: the record is damaged, or the archive was released.
        """
        if TRACE_WARNINGS not in self.sizes:
            return ()
        return from_record(self._record(TRACE_WARNINGS))

    @property
    def float64_outputs(self) -> Float64Outputs:
        """The float64 outputs of those golden cases that have some, by the case's number.

        Raises:
            ArchiveError: the record is damaged, does not match the golden cases, or the archive
                was released.
        """
        if FLOAT64_OUTPUTS not in self.sizes:
            return {}
        return float64_outputs.from_safetensors(self._record(FLOAT64_OUTPUTS), self.golden)

    def _record(self, name: str) -> bytes:
        found: list[bytes] = []
        torchscript.visit_records(
            self._required_content.source,
            lambda _, view: found.append(bytes(view)),
            wanted=lambda other: other == name,
        )
        return found[0]

    def load(self, device: str | torch.device = "cpu") -> torch.jit.ScriptModule:
        """Load the TorchScript module from the bytes that were checked.

        Raises:
            ArchiveError: LibTorch refuses it, or the archive was released.
            OperatorError: a custom operator is missing; see `operators.load`.
        """
        try:
            operators.load(self.manifest.custom_ops if self.manifest else ())
        except OperatorError as error:
            where = f"'{self.path.name}': "
            raise OperatorError(f"{where}{error}", f"{where}{error.public}") from None
        # A module may run code while it is loaded.
        with printing.by(self.manifest.name if self.manifest else self.path.stem):
            module = torchscript.load(self._required_content.source, device)
        if self.size > LARGE:  # reading and checking may have freed half as much again
            trim_malloc()
        return module

    def program(self, device: str | torch.device = "cpu") -> Program:
        """Load the module to a device, wrapped in checks of its signature."""
        return Program(self.require_manifest(), self.load(device), device)

    def release(self, golden_bytes: int = 0) -> None:
        """Free the file's bytes, and all but the smallest golden cases.

        Modules that were loaded stay valid; the archive cannot be loaded again. The cases that are
        kept have at most `golden_bytes` together, and keep their order.
        """
        kept = set()
        for number in sorted(range(len(self.golden)), key=lambda n: self.golden[n].nbytes):
            golden_bytes -= self.golden[number].nbytes
            if golden_bytes >= 0:
                kept.add(number)
        self._golden = [case for number, case in enumerate(self.golden) if number in kept]
        content, self._content = self._content, None
        if content is not None:
            content.close()


@default_mode()
def open_archive(path: Path, trusted_keys: Sequence[Ed25519PublicKey] = ()) -> Archive:
    """Read a file once; check its signature (if keys are given), its zip and its digests.

    Raises:
        ArchiveError: the file cannot be read (`UnreadableError`), is not signed by a trusted key,
            is damaged or too new; the message says which record and why.
    """
    return check_content(path, read_content(path, trusted_keys))


def parse_archive(path: Path, data: bytes) -> Archive:
    """Check an archive's bytes: zip, manifest and digests. `path` is used in messages.

    Raises:
        ArchiveError: as for `open_archive`.
    """
    whole = memoryview(data)
    return check_content(
        path, Content(whole[start : start + BLOCK] for start in range(0, len(data), BLOCK))
    )


def read_content(
    path: Path,
    trusted_keys: Sequence[Ed25519PublicKey] = (),
    progress: Callable[[int], None] = lambda size: None,
) -> Content:
    """Read a file once, and check its signature if keys are given: the first half of opening it.

    It blocks for as long as the disk does; `progress` is called with the size of each block.

    Raises:
        UnreadableError: the system refuses to read the file or its signature.
        ArchiveError: it is not a regular file, is too large, or is not signed by a trusted key.
    """
    content = Content(read_blocks(path, MAX_FILE, progress))
    if trusted_keys:
        with content.view() as view:
            check_signature(path, view, trusted_keys)
    return content


def check_content(path: Path, content: Content) -> Archive:
    """Check a file's zip, manifest and digests: the second half of `open_archive`.

    Raises:
        ArchiveError: as for `open_archive`.
    """
    try:
        return Archive(path, content, *_check(content))
    except ArchiveError as error:
        raise type(error)(f"'{path.name}': {error}") from None


def read_manifest(path: Path, content: Content) -> Manifest:
    """Return the manifest of a file that is not checked yet, to learn which model it claims to be.

    Only Python's zip reader is used: LibTorch's may end the process on a damaged file.

    Raises:
        ArchiveError: there is no readable manifest.
    """
    try:
        with content.open() as raw, zipfile.ZipFile(raw) as file:
            top = PurePosixPath(next(iter(file.namelist()), "")).parts[:1]
            return parse_manifest(file.read("/".join((*top, MANIFEST))))
    except ArchiveError as error:
        raise ArchiveError(f"'{path.name}': {error}") from None
    except Exception as error:  # zipfile and zlib raise many kinds
        raise ArchiveError(f"'{path.name}' has no manifest to be read: {error}") from None


def _check(content: Content) -> tuple[dict[str, int], bytes | None]:
    """Check a file's content; return the size of each record and the manifest's bytes."""
    found: dict[str, None] = {}  # in the file's order
    manifest_blocks: list[bytes] = []

    def take(name: str, block: bytes) -> None:
        found[name] = None
        if name == MANIFEST:
            manifest_blocks.append(block)

    try:
        with content.open() as raw, zipfile.ZipFile(raw) as file:
            names = file.namelist()
            if not names or "/" not in names[0]:
                raise ArchiveError("not a TorchScript file: expected records below one folder")
            read_records(file, names[0].split("/", 1)[0], take)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError) as error:
        raise ArchiveError(f"not a readable zip: {error}") from None
    if "data.pkl" not in found or "constants.pkl" not in found:
        raise ArchiveError("not a TorchScript file: it has no 'data.pkl' and 'constants.pkl'")
    if MANIFEST not in found:
        # A damaged archive must not be taken for a plain TorchScript file. One flipped byte (the
        # length of an entry's comment) hides records from Python's reader, but not from LibTorch.
        sizes: dict[str, int] = {}
        torchscript.visit_records(
            content.source, lambda name, view: sizes.update({name: len(view)})
        )
        lost = next((name for name in [*found, *sizes] if name.startswith(OURS)), None)
        if lost is not None:
            raise ArchiveError(f"it holds the record '{lost}' but no manifest")
        return sizes, None
    # The manifest has no digest; these are the bytes whose CRC-32 was checked above.
    record = b"".join(manifest_blocks)
    listed = parse_manifest(record).records
    sizes = {MANIFEST: len(record)}

    def check(name: str, view: memoryview) -> None:
        if name == MANIFEST:
            return
        sizes[name] = len(view)
        if name not in listed:
            raise ArchiveError(f"record '{name}' is not listed in the manifest")
        digest = hashlib.sha256(view).hexdigest()
        if digest != listed[name]:
            raise ArchiveError(
                f"record '{name}' is damaged: expected SHA-256 {listed[name]}, got {digest}"
            )

    torchscript.visit_records(content.source, check)
    missing = sorted(set(listed) - set(sizes))
    if missing:
        raise ArchiveError(f"record '{missing[0]}' is missing")
    return sizes, record
