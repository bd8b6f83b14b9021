"""Compiled modules as TorchScript zips: written, read record by record, and loaded."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from torchship.script.errors import (
    ArchiveError,
    ExportError,
    OutOfMemoryError,
    TorchShipError,
    UnreadableError,
    UsageError,
)
from torchship.script.format.file_content import DraftContent
from torchship.script.runtime import print_handler
from torchship.script.runtime.explanations import explain
from torchship.script.runtime.floating_point import default_mode
from torchship.script.runtime.out_of_memory import amount, ran_out
from torchship.script.runtime.torchscript import DEFAULTS, method_names, no_deprecation_warning


def save(module: torch.jit.ScriptModule) -> bytes:
    """Return the bytes of the module's TorchScript zip.

    Raises:
        ExportError: the module contains something that TorchScript cannot save.
    """
    buffer = io.BytesIO()
    try:
        with no_deprecation_warning():
            torch.jit.save(module, buffer)
    except Exception as error:
        raise ExportError(explain(str(error), "save")) from None
    return buffer.getvalue()


def save_into(draft: DraftContent, module: torch.jit.ScriptModule) -> None:
    """Write the module's TorchScript zip, the same bytes as `save` returns.

    LibTorch writes directly to the memory file if there is one, because a Python buffer would copy
    the weights several times. It names the zip's folder after the file, hence the symbolic link.
    (A file on disk would not do: LibTorch ends the process if the disk is full.)

    Raises:
        ExportError: as `save`.
        UsageError: no temporary folder can be made.
    """
    target = draft.source
    if isinstance(target, bytes):
        draft.file.write(save(module))
        return
    try:
        with tempfile.TemporaryDirectory() as folder, no_deprecation_warning():
            alias = Path(folder, "archive.pt")
            alias.symlink_to(target)
            torch.jit.save(module, str(alias))
    except OSError as error:
        raise UsageError(f"cannot make a temporary folder: {error.strerror}") from None
    except Exception as error:
        raise ExportError(explain(str(error), "save")) from None


def records(source: bytes | str) -> dict[str, bytes]:
    """Return the records of a TorchScript zip (bytes, or a path) as LibTorch reads them.

    Raises:
        ArchiveError: LibTorch's reader refuses the zip.
    """
    found: dict[str, bytes] = {}
    visit_records(source, lambda name, view: found.update({name: bytes(view)}))
    return found


def visit_records(
    source: bytes | str,
    visit: Callable[[str, memoryview], None],
    wanted: Callable[[str], bool] = lambda name: True,
) -> None:
    """Call `visit` with the name and bytes of each wanted record, as LibTorch reads it.

    Two zip readers may read different content from the same damaged bytes, so the check must use
    the reader that loads the module. (LibTorch's takes one bit of a record's attributes as "this
    is a folder", and then returns uninitialised memory.) Only one record is in memory at a time,
    because weights may be large.

    Args:
        source: the bytes of the zip, or its path.
        visit: called for each record; it must not keep the view.
        wanted: selects records by name; the default is all.

    Raises:
        ArchiveError: LibTorch's reader refuses the zip, or `visit` the record.
    """
    try:
        reader = torch._C.PyTorchFileReader(_readable(source))
        for name in reader.get_all_records():
            if wanted(name):
                visit(name, _view(reader, name))
    except TorchShipError:
        raise
    except Exception as error:
        raise _refused("read the zip", error) from None


def _view(reader: torch._C.PyTorchFileReader, name: str) -> memoryview:
    tensor = reader.get_storage_from_record(name, reader.get_record_size(name), torch.uint8)
    data = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy().data
    return data.cast("B")


def _readable(source: bytes | str) -> io.BytesIO | str:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def is_scarcity(text: str) -> bool:
    """Return whether LibTorch's message reports a lack of memory or file descriptors."""
    return re.search(r"(alloc\w*|enough|out of) memory|Too many open files", text) is not None


def _refused(what: str, error: Exception) -> TorchShipError:
    if ran_out(error):
        return OutOfMemoryError(f"no memory to {what}{amount(error)}")
    kind = UnreadableError if is_scarcity(str(error)) else ArchiveError
    return kind(f"LibTorch cannot {what}: {_first_line(error)}")


def load(
    source: bytes | str,
    device: str | torch.device = DEFAULTS.device,
    freeze: bool = DEFAULTS.freeze,
) -> torch.jit.ScriptModule:
    """Load a module from a TorchScript zip (bytes, or a path); freeze it if asked.

    Raises:
        ArchiveError: LibTorch refuses it.
        OutOfMemoryError: there is not enough memory.
    """
    try:
        print_handler.install()
        with no_deprecation_warning(), default_mode():
            module = torch.jit.load(  # type: ignore[no-untyped-call]
                _readable(source), map_location=device
            )
            if freeze:
                others = [name for name in method_names(module) if name != "forward"]
                module = torch.jit.freeze(module.eval(), preserved_attrs=others)
    except Exception as error:
        raise _refused("load the archive", error) from None
    assert isinstance(module, torch.jit.ScriptModule)
    return module


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
