"""Runs clang-tidy over the C++ sources, as `.clang-tidy` says; `make lint` calls it.

    python deploy/tidy.py build/release

The folder is one that CMake has configured: its `compile_commands.json` says how each source is
compiled. Sources of the library, the binary and the operators are looked at, with the headers of
ours that they include; tests and fuzzers are not, since they would double the time.

A source that was found good is not looked at again until it, a header of ours, its command or the
checks change: stamps lie in `build/tidy`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMPS = ROOT / "build" / "tidy"
LEFT_OUT = ("tests", "fuzz")


def main(build: Path) -> None:
    """Look at every source; exits with 1 where clang-tidy has something to say."""
    entries = _entries(build)
    if not entries:
        sys.exit(f"make lint: {build}/compile_commands.json names no source of cpp_runner/")
    STAMPS.mkdir(parents=True, exist_ok=True)
    (STAMPS / "compile_commands.json").write_text(json.dumps(entries))
    shared = _shared_digest()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = list(pool.map(lambda entry: _check(entry, shared), entries))
    kept = {stamp.name for stamp, _, _ in results}
    for old in STAMPS.glob("*.good"):
        if old.name not in kept:
            old.unlink()
    found = [text for _, text, _ in results if text]
    print("\n".join(found), end="")
    ran = sum(ran for _, _, ran in results)
    print(f"clang-tidy: {len(results)} sources, {ran} of them changed, {len(found)} with findings")
    sys.exit(bool(found))


def _entries(build: Path) -> list[dict[str, str]]:
    """Return how our sources are compiled, in clang's words.

    A precompiled header is GCC's own, so sources are read without it. Warnings are the compiler's
    job, and clang does not know all of GCC's by name.
    """
    found = []
    for entry in json.loads((build / "compile_commands.json").read_text()):
        source = Path(entry["file"])
        parts = source.relative_to(ROOT).parts if source.is_relative_to(ROOT) else ()
        if parts[:1] != ("cpp_runner",) or parts[1] in LEFT_OUT:
            continue
        command = []
        words = iter(shlex.split(entry["command"]))
        for word in words:
            if word == "-include":
                next(words)
            elif not word.startswith("-W"):
                command.append(word)
        found.append(
            {
                "directory": entry["directory"],
                "file": entry["file"],
                "command": shlex.join(command),
            }
        )
    return found


def _shared_digest() -> bytes:
    """Return a digest of what every source's result follows from."""
    digest = hashlib.sha256(subprocess.check_output(["clang-tidy", "--version"]))
    for path in [ROOT / ".clang-tidy", *sorted((ROOT / "cpp_runner").rglob("*.h"))]:
        digest.update(str(path).encode() + b"\0" + path.read_bytes())
    return digest.digest()


def _check(entry: dict[str, str], shared: bytes) -> tuple[Path, str, bool]:
    """Return a source's stamp, what clang-tidy says of it, and whether it was asked."""
    content = Path(entry["file"]).read_bytes()
    key = hashlib.sha256(shared + entry["command"].encode() + b"\0" + content).hexdigest()
    stamp = STAMPS / f"{key}.good"
    if stamp.exists():
        return stamp, "", False
    done = subprocess.run(
        ["clang-tidy", "-p", STAMPS, "--quiet", entry["file"]],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        stamp.touch()
        return stamp, "", True
    return stamp, done.stdout or done.stderr, True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
