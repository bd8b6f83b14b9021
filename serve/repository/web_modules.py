"""The WebAssembly of live archives: compiled in a process of its own when it is first asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import orjson

from torchship.native.errors import CompilerMissingError, NativeError, UnsupportedError
from torchship.script.errors import TorchShipError
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import ArchiveChangedError, OverloadError
from torchship.serve.repository.reopening import changed
from torchship.serve.system.child_process import child_process
from torchship.serve.system.interpreter import command

log = logging.getLogger(__name__)

COMPILER = "torchship.native.running.compiled_wasm"
MOST_SECONDS = 300.0  # for one archive

ERRORS: dict[str, type[TorchShipError]] = {
    kind.code: kind for kind in (UnsupportedError, CompilerMissingError, NativeError)
}


class WebModules:
    """Compiles archives, one at a time; the user's cache keeps them, for all servers."""

    def __init__(self, operators: Sequence[Path]) -> None:
        """Take the folders of operator libraries, beside those of the environment."""
        self._operators = [str(folder.absolute()) for folder in operators]
        self._folders: dict[str, Path] = {}
        self._refused: dict[str, TorchShipError] = {}
        self._turn = asyncio.Lock()

    async def file(self, engine: Engine, name: str) -> bytes:
        """Return one of the two files of a live archive: `model.mjs` or `model.wasm`.

        Raises:
            UnsupportedError: an operator of the archive has no C, or the archive is too large.
            CompilerMissingError: there is no compiler for WebAssembly.
            NativeError: the compiler fails.
            ArchiveChangedError: the archive's file is gone, or holds something else by now.
            OverloadError: it takes too long.
        """
        content = await self._read(engine.digest, name)
        if content is None:
            async with self._turn:
                content = await self._read(engine.digest, name)
                if content is None:
                    folder = self._folders[engine.digest] = await self._compile(engine)
                    content = await asyncio.to_thread((folder / name).read_bytes)
        return content

    async def _read(self, digest: str, name: str) -> bytes | None:
        """Return a file that was compiled before; None if it was not, or is not there any more.

        Raises:
            UnsupportedError, NativeError: it was tried before.
        """
        if digest in self._refused:
            raise self._refused[digest].with_traceback(None)
        folder = self._folders.get(digest)
        if folder is None:
            return None
        try:
            return await asyncio.to_thread((folder / name).read_bytes)
        except FileNotFoundError:  # somebody emptied the cache
            return None

    async def _compile(self, engine: Engine) -> Path:
        asked = (str(engine.path.absolute()), engine.digest, *self._operators)
        async with child_process(command(COMPILER, *asked)) as process:
            assert process.stdout is not None
            try:
                line = await asyncio.wait_for(process.stdout.readline(), MOST_SECONDS)
            except asyncio.TimeoutError:
                raise OverloadError(
                    f"model '{engine.manifest.name}': the compiler for WebAssembly did not end in "
                    f"{MOST_SECONDS:.0f} seconds"
                ) from None
        if not line:
            raise OverloadError(
                f"model '{engine.manifest.name}': the compiler for WebAssembly was ended, perhaps "
                "because there was no memory for it"
            )
        answer: dict[str, str] = orjson.loads(line)
        if "folder" in answer:
            return Path(answer["folder"])
        code, text = answer["code"], answer["error"]
        if code == ArchiveChangedError.code:
            raise changed(engine)
        if code in ERRORS:
            error = ERRORS[code](f"model '{engine.manifest.name}': {text}")
            if not isinstance(error, CompilerMissingError):  # which may yet be installed
                self._refused[engine.digest] = error
            raise error
        raise RuntimeError(f"compiling model '{engine.manifest.name}': {text}")
