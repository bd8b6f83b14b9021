"""`torchship serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from torchship.script.errors import UsageError
from torchship.serve.settings import Settings

app = typer.Typer()


@app.command()
def serve(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH...", help="Archives, or folders of *.pt.", show_default=False),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 for any free one.", show_default="8000")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Intra-op threads of each model.", show_default="1")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Rows of all requests in one call.", show_default="64")
    ] = None,
    max_queue: Annotated[
        int | None, typer.Option(help="Rows that may wait for each model.", show_default="4096")
    ] = None,
    trusted_keys: Annotated[
        Path | None,
        typer.Option(help="PEM file of Ed25519 public keys: serve only what they signed."),
    ] = None,
    max_body_bytes: Annotated[
        int | None, typer.Option(help="Largest request body.", show_default="64 MiB")
    ] = None,
) -> None:
    """Serve archives over HTTP: Open Inference Protocol V2, JSON and binary tensors.

    The server is ready when every archive has reproduced its golden cases.
    Each option can also be set as TORCHSHIP_SERVE_<NAME> in the environment.

    Example: torchship serve archives/ --port 8000
    """
    from torchship.serve.process import run  # FastAPI and uvicorn, which --help does not need

    given: dict[str, object] = {
        "paths": tuple(paths) if paths else None,
        "host": host,
        "port": port,
        "threads": threads,
        "max_batch": max_batch,
        "max_queue": max_queue,
        "trusted_keys": trusted_keys,
        "max_body_bytes": max_body_bytes,
    }
    run(_settings({name: value for name, value in given.items() if value is not None}))


def _settings(given: dict[str, object]) -> Settings:
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"setting '{name}': {first['msg']}, got {first['input']!r}") from None
    except SettingsError as error:
        raise UsageError(str(error)) from None
