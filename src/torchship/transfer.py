"""`torchship push` and `torchship pull`: archives to and from stores."""

from __future__ import annotations

import json as json_
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from torchship.script.cli import TrustedKeys
from torchship.script.errors import ArchiveError, UsageError
from torchship.script.format.file_content import read_blocks
from torchship.script.format.signing import LENGTH, read_trusted_keys, signature_path
from torchship.script.runtime.archive import Archive, open_archive
from torchship.serve.errors import NotInStoreError, StoreError
from torchship.serve.stores.addresses import HTTP, SIGNATURE, Address, read_address
from torchship.serve.stores.cache import digest_of
from torchship.serve.stores.fetching import fetch
from torchship.serve.stores.opening import SECONDS, open_store
from torchship.serve.stores.store import RemoteFile, Store, is_wanted

app = typer.Typer()

Force = Annotated[bool, typer.Option("--force", help="Replace what has another content.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seconds = Annotated[float, typer.Option(min=0.001, help="For which the store may send nothing.")]
Told = Callable[[int], None]


@dataclass(frozen=True)
class Transfer:
    """What became of one archive."""

    archive: str
    """The local file."""
    address: str
    model: str
    version: str
    digest: str
    bytes: int
    signed: bool
    changed: bool
    """Whether anything was written."""

    def __str__(self) -> str:
        words = [f"{self.bytes:,} bytes", *(["signed"] if self.signed else [])]
        words += [] if self.changed else ["it was there already"]
        return f"{', '.join(words)}, sha256:{self.digest}"


@app.command()
def push(
    archives: Annotated[list[Path], typer.Argument(metavar="ARCHIVE...", help="What to upload.")],
    address: Annotated[str, typer.Argument(help="A folder in a store, or NAME.pt in one.")],
    trusted_keys: TrustedKeys = None,
    force: Force = False,
    seconds: Seconds = SECONDS,
    json: Json = False,
) -> None:
    """Check archives, and upload them with their signatures to a store.

    The store is s3://, gs://, az://, hf:// or file://; credentials are those that the store's own
    tools read. A server that follows the store never sees a new archive without its signature.

    Example: torchship push moba.pt s3://bucket/models
    """
    where = read_address(address)
    if where.scheme in HTTP:
        raise UsageError(f"{where}: a web server takes no archives: push to the store behind it")
    keys = read_trusted_keys(trusted_keys) if trusted_keys else []
    store = open_store(where, seconds)
    with tempfile.TemporaryDirectory(prefix="torchship-") as folder, _bar(json) as bar:
        uploads = [
            _Upload(path, name, Path(folder) / str(number), keys)
            for number, (path, name) in enumerate(_names(archives, where))
        ]
        for upload in uploads:
            upload.compare(store, where, force)
        for upload in uploads:
            upload.send(store, where, bar(upload.name, upload.size))
    _report([upload.result(where) for upload in uploads], json, lambda done: done.address)


@app.command()
def pull(
    address: Annotated[
        str, typer.Argument(help="An archive, or a folder of archives, in a store.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to put them.")] = Path("."),
    trusted_keys: TrustedKeys = None,
    force: Force = False,
    seconds: Seconds = SECONDS,
    json: Json = False,
) -> None:
    """Download archives with their signatures, and check them before they get their names.

    Example: torchship pull s3://bucket/models archives/ --trusted-keys keys.pem
    """
    where = read_address(address)
    keys = read_trusted_keys(trusted_keys) if trusted_keys else []
    store = open_store(where, seconds)
    files = store.listing()
    names = [name for name in files if not name.endswith(SIGNATURE)]
    if not names:
        raise NotInStoreError(
            f"{where}: there is no archive: expected NAME.pt or <name>/<version>/model.pt"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".torchship-", dir=folder) as temporary,
            _bar(json) as bar,
        ):
            downloads = [
                _Download(name, folder, Path(temporary) / str(number))
                for number, name in enumerate(sorted(names))
            ]
            for download in downloads:
                signature = files.get(download.name + SIGNATURE)
                told = bar(download.name, files[download.name].size)
                download.receive(store, where, files[download.name], signature, told)
                download.check(keys, force)
            results = [download.place(where) for download in downloads]
    except OSError as error:
        raise UsageError(f"cannot write to '{folder}': {error.strerror or error}") from None
    _report(results, json, lambda done: done.archive)


def _names(archives: Sequence[Path], where: Address) -> list[tuple[Path, str]]:
    """Return the archives with the names that they get in the store.

    Raises:
        UsageError: a name is not one of an archive, or two are the same.
    """
    if where.is_archive:
        if len(archives) != 1:
            raise UsageError(f"{where} is one archive: expected one to upload, got {len(archives)}")
        return [(archives[0], where.name)]
    named: dict[str, Path] = {}
    for path in archives:
        if not is_wanted(path.name) or path.name.endswith(SIGNATURE):
            raise UsageError(f"'{path}': a server looks for NAME.pt: rename it, or name the object")
        if path.name in named:
            raise UsageError(f"'{named[path.name]}' and '{path}' have the same name in {where}")
        named[path.name] = path
    return [(path, name) for name, path in named.items()]


class _Upload:
    """One archive on its way to a store: a copy that nobody changes, and its signature."""

    def __init__(
        self, path: Path, name: str, folder: Path, keys: Sequence[Ed25519PublicKey]
    ) -> None:
        """Check the archive.

        Raises:
            ArchiveError: it is damaged, or not signed by one of the keys.
            UsageError: its signature is none, or the copy cannot be written.
        """
        self.path, self.name = path, name
        signature = signature_path(path)
        self._signature = b"".join(read_blocks(signature)) if os.path.lexists(signature) else None
        if self._signature is not None and len(self._signature) != LENGTH:
            raise UsageError(
                f"'{signature}' is not an Ed25519 signature: expected {LENGTH} bytes, got "
                f"{len(self._signature)}; sign the archive again, or remove the file"
            )
        self._archive = open_archive(path, keys)
        self._archive.require_manifest()
        self.size = self._archive.size
        self._folder = folder
        self._sends: list[tuple[str, Path]] = []
        self._stale = False
        self._was_signed = False
        try:
            folder.mkdir()
            with (folder / "archive").open("wb") as copy:
                copy.writelines(self._archive.blocks())
            (folder / "signature").write_bytes(self._signature or b"")
        except OSError as error:
            raise UsageError(f"cannot write to '{folder}': {error.strerror}") from None

    def compare(self, store: Store, where: Address, force: bool) -> None:
        """Find out what has to be sent.

        Raises:
            UsageError: something else has its name, and `force` is False.
        """
        archive, signature = (self._found(store, where, name) for name in self._parts())
        same = archive == self._archive.digest
        if archive is not None and not same and not force:
            raise UsageError(
                f"{where}: {self.name} is there with another content, sha256:{archive}: "
                "--force replaces it"
            )
        own = digest_of(self._folder / "signature") if self._signature is not None else None
        if own is not None and signature not in (None, own) and not force:
            raise UsageError(
                f"{where}: {self.name}{SIGNATURE} is there with another content: "
                "--force replaces it"
            )
        # The signature first: until both are there, a server keeps what it has.
        if own is not None and signature != own:
            self._sends.append((self.name + SIGNATURE, self._folder / "signature"))
        if not same:
            self._sends.append((self.name, self._folder / "archive"))
        self._stale = signature is not None and own is None and not same
        self._was_signed = signature is not None and own is None and same

    def _parts(self) -> tuple[str, str]:
        return self.name, self.name + SIGNATURE

    def _found(self, store: Store, where: Address, name: str) -> str | None:
        """Return the digest of what has a name in the store; a note if it is too large."""
        file = store.find(name)
        if file is None:
            return None
        expected = self.size if name == self.name else LENGTH
        if file.size is not None and file.size != expected:
            return f"unknown ({file.size} bytes)"
        target = self._folder / "found"
        try:
            fetch(store, where, file, target)
            return digest_of(target)
        except OSError as error:
            raise UsageError(f"cannot write to '{self._folder}': {error.strerror}") from None
        finally:
            target.unlink(missing_ok=True)

    def send(self, store: Store, where: Address, told: Told) -> None:
        """Upload what is not there yet.

        Raises:
            StoreError: the store does not take it.
        """
        for name, source in self._sends:
            store.put(source, name, told)
            now = store.find(name)
            if now is None or now.size not in (None, source.stat().st_size):
                raise StoreError(f"{where}: {name} was uploaded, and is not there as it should be")
        if self._stale:
            store.remove(self.name + SIGNATURE)

    def result(self, where: Address) -> Transfer:
        """Return what became of it."""
        address = where if where.is_archive else where.of(self.name)
        signed = self._signature is not None or self._was_signed
        return _transfer(self.path, address, self._archive, signed, bool(self._sends))


class _Download:
    """One archive on its way from a store, in a hidden folder until it is checked."""

    def __init__(self, name: str, folder: Path, temporary: Path) -> None:
        """Take its name in the store, and the folders."""
        self.name = name
        self._target = folder / name
        self._file = temporary / Path(name).name
        self._signed = self._changed = False

    def receive(
        self,
        store: Store,
        where: Address,
        archive: RemoteFile,
        signature: RemoteFile | None,
        told: Told,
    ) -> None:
        """Fetch it, and its signature if there is one.

        Raises:
            StoreError: the store does not send it.
            OSError: the disk refuses.
        """
        self._file.parent.mkdir()
        fetch(store, where, archive, self._file, told)
        if signature is not None:
            fetch(store, where, signature, signature_path(self._file))
        self._signed = signature is not None

    def check(self, keys: Sequence[Ed25519PublicKey], force: bool) -> None:
        """Check the archive, and that nothing else has its name.

        Raises:
            ArchiveError: it is damaged, or not signed by one of the keys.
            UsageError: something else has its name, and `force` is False.
        """
        self._archive = open_archive(self._file, keys)
        self._archive.require_manifest()
        pairs = [(self._file, self._target)]
        if self._signed:
            pairs.append((signature_path(self._file), signature_path(self._target)))
        for new, old in pairs:
            if os.path.lexists(old) and (same := _digest(old)) != digest_of(new):
                if not force or same is None:
                    raise UsageError(
                        f"'{old}' is there with another content: --force replaces a file"
                    )
                self._changed = True
            elif not os.path.lexists(old):
                self._changed = True

    def place(self, where: Address) -> Transfer:
        """Give it its name; the signature first, as in `push`.

        Raises:
            OSError: the disk refuses.
        """
        if self._changed:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            replaced = _digest(self._target) != self._archive.digest
            if self._signed:
                os.replace(signature_path(self._file), signature_path(self._target))
            os.replace(self._file, self._target)
            if not self._signed and replaced:
                signature_path(self._target).unlink(missing_ok=True)
        address = where if where.is_archive else where.of(self.name)
        return _transfer(self._target, address, self._archive, self._signed, self._changed)


def _digest(path: Path) -> str | None:
    """Return the digest of a file; None if it is not one that can be read."""
    try:
        return digest_of(path)
    except ArchiveError:
        return None


def _transfer(
    path: Path, address: Address, archive: Archive, signed: bool, changed: bool
) -> Transfer:
    manifest = archive.require_manifest()
    return Transfer(
        archive=str(path),
        address=str(address),
        model=manifest.name,
        version=manifest.version,
        digest=archive.digest,
        bytes=archive.size,
        signed=signed,
        changed=changed,
    )


@contextmanager
def _bar(json: bool) -> Iterator[Callable[[str, int | None], Told]]:
    """Give what shows the progress of each file on a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=json or not sys.stderr.isatty()
    ) as progress:

        def of(name: str, size: int | None) -> Told:
            task = progress.add_task(name, total=size)
            return lambda moved: progress.advance(task, moved)

        yield of


def _report(done: Sequence[Transfer], json: bool, name: Callable[[Transfer], str]) -> None:
    if json:
        print(json_.dumps([asdict(transfer) for transfer in done], indent=2))
        return
    for transfer in done:
        print(f"{name(transfer)}: {transfer}")
