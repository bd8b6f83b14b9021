"""From arguments to a blueprint: archives are found, checked and sent to the cluster's store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import ArchiveError, UsageError
from torchship.script.format.file_content import read_blocks
from torchship.script.format.manifest import Manifest
from torchship.script.format.signing import LENGTH, signature_path
from torchship.script.runtime.archive import Archive, open_archive
from torchship.serve.process.credentials import read_credentials
from torchship.serve.process.messages import Credentials
from torchship.serve.process.server import trusted_keys_of
from torchship.serve.ray import shipping
from torchship.serve.ray.arguments import Arguments
from torchship.serve.ray.blueprint import Blueprint
from torchship.serve.ray.shipping import Shipped
from torchship.serve.ray.store_copies import fetched
from torchship.serve.repository.discovery import find_archives, printable
from torchship.serve.repository.engine_starts import check_name
from torchship.serve.sequences.store_choice import IN_PROCESS, needs_single_worker
from torchship.serve.settings import Settings
from torchship.serve.stores.addresses import Address, is_address, read_address


def pack(arguments: Arguments, settings: Settings) -> Blueprint:
    """Check the archives and return what the replicas are made from; send the archives along.

    Without a cluster (`serve build`) nothing is sent.

    Raises:
        UsageError: an archive is missing or is there twice, or the settings do not fit them.
        ArchiveError: an archive is damaged, or not signed by a trusted key.
    """
    credentials = read_credentials(settings)
    keys = trusted_keys_of(credentials)
    given = [read_address(path) if is_address(path) else Path(path) for path in arguments.models]
    addresses = [path for path in given if isinstance(path, Address)]
    if addresses and not arguments.ship:
        raise UsageError(
            f"'{addresses[0]}' is the address of a store: its archives are sent along, leave "
            "ship=false (--no-ship) out"
        )
    with fetched(addresses, settings, keys) as folders:
        files = [path for path in given if isinstance(path, Path)]
        return _pack(arguments, settings, credentials, [*files, *folders])


def _pack(
    arguments: Arguments, settings: Settings, credentials: Credentials, files: list[Path]
) -> Blueprint:
    ship = arguments.ship and shipping.is_connected()
    archives: dict[tuple[str, str], Path] = {}
    shipped, total = [], 0
    for archive in _opened(files, trusted_keys_of(credentials)):
        manifest, path = archive.require_manifest(), archive.path
        key = manifest.name, manifest.version
        _check(manifest, path, arguments, settings)
        if key in archives:
            raise UsageError(
                f"model '{key[0]}' version '{key[1]}' is in '{archives[key]}' and in '{path}': "
                "expected each once"
            )
        archives[key] = path
        total += archive.size
        if ship and total > shipping.MOST_BYTES:
            raise UsageError(
                f"the archives have more than {shipping.MOST_BYTES} bytes, which is too much for "
                "the memory of the cluster's head: put them where each node can read them, and "
                "give that folder with ship=false (--no-ship), or a store's address"
            )
        if ship:
            shipping.put(archive.digest, archive.blocks())
            shipped.append(_shipped(archive))
    names = tuple(dict.fromkeys(name for name, _ in archives))
    return Blueprint(
        shipped=tuple(shipped),
        paths=() if ship else tuple(str(path.resolve()) for path in files),
        names=names,
        settings=settings.model_copy(update={"config": None, "workers": 1}).model_dump_json(),
        credentials=credentials,
        max_models=_most_models(arguments, len(names)),
    )


def _opened(files: Sequence[Path], keys: Sequence[Ed25519PublicKey]) -> Iterator[Archive]:
    for path in find_archives(files) if files else ():
        try:
            yield open_archive(path, keys)
        except ArchiveError as error:
            text = printable(str(error))
            raise type(error)(text if path.name in text else f"'{path.name}': {text}") from None


def _check(manifest: Manifest, path: Path, arguments: Arguments, settings: Settings) -> None:
    """Refuse an archive that replicas cannot serve together."""
    check_name(manifest.name, manifest.version)
    several = arguments.most_replicas > 1
    if several and settings.state == IN_PROCESS and needs_single_worker(manifest):
        raise UsageError(
            f"model '{manifest.name}' has recurrent state, and each of "
            f"{arguments.most_replicas} replicas would remember its own sequences only: give "
            "--redis redis://host:port/db, --state none if clients carry the state, or one replica"
        )


def _shipped(archive: Archive) -> Shipped:
    path = archive.path
    manifest = archive.require_manifest()
    signature = signature_path(path)
    return Shipped(
        file=path.name if path.name != "model.pt" else f"{manifest.name}.pt",
        digest=archive.digest,
        size=archive.size,
        signature=b"".join(read_blocks(signature, LENGTH)).hex() if signature.exists() else None,
    )


def _most_models(arguments: Arguments, found: int) -> int | None:
    """Return how many models a replica holds; None if it holds all."""
    if arguments.max_models is None or 0 < found <= arguments.max_models:
        return None
    return arguments.max_models
