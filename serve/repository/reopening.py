"""The file of a live archive, read again: its bytes are not kept once it is loaded."""

from __future__ import annotations

from torchship.script.errors import ArchiveError
from torchship.script.format.file_content import Content
from torchship.script.format.golden import to_safetensors
from torchship.script.runtime.archive import check_content, read_content
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import ArchiveChangedError
from torchship.serve.system.daemon_threads import on_thread


async def golden_record(engine: Engine) -> bytes:
    """Return all golden cases of a live archive as safetensors.

    Its file is read again if they were too large to be kept.

    Raises:
        ArchiveChangedError: the file is gone, or holds something else by now.
    """
    cases = engine.golden
    if len(cases) != len(engine.manifest.golden):
        content = await on_thread(lambda: _read(engine), daemon=True)
        archive = await on_thread(lambda: check_content(engine.path, content))
        cases = archive.golden
    return await on_thread(lambda: to_safetensors(cases))


def _read(engine: Engine) -> Content:
    try:
        content = read_content(engine.path)
    except ArchiveError:  # its message may name folders, which are no client's business
        content = None
    if content is None or content.digest != engine.digest:
        raise changed(engine)
    return content


def changed(engine: Engine) -> ArchiveChangedError:
    """Return the error of an archive of which the file is not what is live."""
    return ArchiveChangedError(
        f"model '{engine.manifest.name}': '{engine.path.name}' is gone or has changed since it was "
        "loaded: put the file back, or load the model again"
    )
