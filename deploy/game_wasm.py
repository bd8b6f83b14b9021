"""Compiles the snake game to the WebAssembly that the page plays: ui/page/ui/game/game.wasm.

python deploy/game_wasm.py, or `make game-wasm`; it needs clang, lld and wasi-libc. The file is in
Git, so that nobody else needs them. In a section `source.sha256` it holds the SHA-256 of game.c
and game.h together, from which a test sees that it was made of another source.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (ROOT / "cpp_runner" / "snake" / "game.c", ROOT / "cpp_runner" / "snake" / "game.h")
TARGET = ROOT / "ui" / "page" / "ui" / "game" / "game.wasm"
SECTION = b"source.sha256"
FUNCTIONS = (
    *("check", "size", "init", "reset", "step", "observe", "segment", "fits", "mix", "rewards"),
    *("died", "tiles", "bodies", "places", "lengths", "headings", "keys", "draws", "scores"),
)
# bulk-memory: memcpy and memset are instructions, and the module imports nothing.
FLAGS = (
    *("--target=wasm32-wasi", "-std=c11", "-O3", "-mbulk-memory", "-nostdlib"),
    *("-Wl,--no-entry", "-Wl,--strip-all", "-Wl,--export=__heap_base", "-Wl,-z,stack-size=65536"),
)


def source_digest() -> bytes:
    """Return the SHA-256 of the game's sources, 32 bytes."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).digest()


def custom_section(name: bytes, content: bytes) -> bytes:
    """Return a custom section of WebAssembly; all lengths must be below 128."""
    body = bytes([len(name)]) + name + content
    if len(body) > 127:
        raise ValueError(f"section '{name.decode()}': expected at most 127 bytes, got {len(body)}")
    return bytes([0, len(body)]) + body


def compiled() -> bytes:
    """Return the game as a module of WebAssembly, with the digest of its sources.

    Raises:
        subprocess.CalledProcessError: clang refuses; its words are on standard error.
        FileNotFoundError: there is no clang.
    """
    exports = [f"-Wl,--export=snake_{name}" for name in FUNCTIONS]
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "game.wasm"
        include = SOURCES[0].parent.parent
        command = [
            "clang",
            *FLAGS,
            *exports,
            "-I",
            str(include),
            str(SOURCES[0]),
            "-o",
            str(module),
        ]
        subprocess.run(command, check=True)
        return module.read_bytes() + custom_section(SECTION, source_digest())


if __name__ == "__main__":
    TARGET.write_bytes(compiled())
    print(f"{TARGET.relative_to(ROOT)}: {TARGET.stat().st_size:,} bytes")
