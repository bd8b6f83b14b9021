"""`torchship push` and `torchship pull`: archives to and from stores."""

from __future__ import annotations

import json as json_
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from torchship.script.cli import TrustedKeys
from torchship.script.errors import UsageError
from torchship.script.format.signing import read_trusted_keys
from torchship.serve.errors import NotInStoreError
from torchship.serve.stores.addresses import HTTP, SIGNATURE, Address, read_address
from torchship.serve.stores.download import Download
from torchship.serve.stores.opening import SECONDS, open_store
from torchship.serve.stores.store import is_wanted
from torchship.serve.stores.transfer import Transfer
from torchship.serve.stores.upload import Upload

app = typer.Typer()

Force = Annotated[bool, typer.Option("--force", help="Replace what has another content.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seconds = Annotated[float, typer.Option(min=0.001, help="For which the store may send nothing.")]
Told = Callable[[int], None]


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
            Upload(path, name, Path(folder) / str(number), keys)
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
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put them.")] = Path("."),
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
                Download(name, folder, Path(temporary) / str(number))
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
