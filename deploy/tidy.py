"""Runs clang-tidy over the C++ sources, as `.clang-tidy` says; `make lint` calls it.

    python deploy/tidy.py

CMake configures `build/tidy/cmake`, whose `compile_commands.json` says how each source is compiled
by itself. Sources of the library, the binary and the operators are looked at, with the headers of
ours that they include; tests and fuzzers are not, since they would double the time.

Most of the time goes into LibTorch's headers, so sources of one folder that are compiled alike are
read as one text. Where that text is not found good, because of a finding or of two names that are
the same, each of its sources is looked at by itself, and that is what is reported.

What was found good is not looked at again until a source, a header of ours, a command or the checks
change: stamps lie in `build/tidy`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
STAMPS = ROOT / "build" / "tidy"
LEFT_OUT = ("tests", "fuzz")
CHECKS = ROOT / ".clang-tidy"
LARGEST_GROUP = 6
"""How many sources are read as one text; small enough that two processors share the work evenly."""

Entry = dict[str, str]
"""How a file is compiled, in the words of `compile_commands.json`."""


class Result(NamedTuple):
    """What clang-tidy says of a group of sources."""

    stamps: list[Path]
    findings: list[str]
    ran: int
    """How many sources were looked at now."""


def main() -> None:
    """Look at every source; exits with 1 where clang-tidy has something to say."""
    STAMPS.mkdir(parents=True, exist_ok=True)
    build = STAMPS / "cmake"
    words = ["cmake", "-S", str(ROOT), "-B", str(build), f"-DPython_EXECUTABLE={sys.executable}"]
    subprocess.run([*words, "--log-level=WARNING"], check=True, stdout=subprocess.DEVNULL)
    entries = _entries(build)
    if not entries:
        sys.exit(f"make lint: {build}/compile_commands.json names no source of cpp_runner/")
    shared = _shared_digest()
    groups = _groups(entries)
    texts = [_text_of(group) for group in groups]
    (STAMPS / "compile_commands.json").write_text(json.dumps([*entries, *texts]))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = list(pool.map(_check_group, groups, texts, repeat(shared)))
    kept = {stamp.name for result in results for stamp in result.stamps}
    for old in STAMPS.glob("*.good"):
        if old.name not in kept:
            old.unlink()
    found = [text for result in results for text in result.findings]
    print("\n".join(found), end="")
    ran = sum(result.ran for result in results)
    print(f"clang-tidy: {len(entries)} sources, {ran} of them changed, {len(found)} with findings")
    sys.exit(bool(found))


def _entries(build: Path) -> list[Entry]:
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
    for path in [CHECKS, *sorted((ROOT / "cpp_runner").rglob("*.h"))]:
        digest.update(str(path).encode() + b"\0" + path.read_bytes())
    return digest.digest()


def _groups(entries: list[Entry]) -> list[list[Entry]]:
    """Return the sources of each folder that are compiled by the same words."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        source = entry["file"]
        words = [w for w in shlex.split(entry["command"]) if w not in (source, "-o", "-c")]
        key = (str(Path(source).parent), " ".join(w for w in words if not w.endswith(".o")))
        groups.setdefault(key, []).append(entry)
    return [
        group[start : start + LARGEST_GROUP]
        for group in groups.values()
        for start in range(0, len(group), LARGEST_GROUP)
    ]


def _text_of(group: list[Entry]) -> Entry:
    """Write the sources of a group as one text, and return how it is compiled."""
    first = group[0]
    sources = [Path(entry["file"]) for entry in group]
    text = b"\n".join(source.read_bytes() for source in sources)
    name = hashlib.sha256(first["command"].encode() + text).hexdigest()[:16]
    place = STAMPS / f"{name}{sources[0].suffix}"
    place.write_bytes(text)
    words = [str(place) if w == first["file"] else w for w in shlex.split(first["command"])]
    words[1:1] = ["-iquote", str(sources[0].parent)]
    return {"directory": first["directory"], "file": str(place), "command": shlex.join(words)}


def _check_group(group: list[Entry], text: Entry, shared: bytes) -> Result:
    """Look at a group as one text, and at each source by itself if that was not found good."""
    together = _check(text, shared)
    Path(text["file"]).unlink()
    if not together.findings:
        return together._replace(ran=together.ran * len(group))
    each = [_check(entry, shared) for entry in group]
    return Result(
        [stamp for result in each for stamp in result.stamps],
        [finding for result in each for finding in result.findings],
        sum(result.ran for result in each),
    )


def _check(entry: Entry, shared: bytes) -> Result:
    """Ask clang-tidy about one file, unless it was found good before."""
    content = Path(entry["file"]).read_bytes()
    key = hashlib.sha256(shared + entry["command"].encode() + b"\0" + content).hexdigest()
    stamp = STAMPS / f"{key}.good"
    if stamp.exists():
        return Result([stamp], [], 0)
    done = subprocess.run(
        ["clang-tidy", f"--config-file={CHECKS}", "-p", STAMPS, "--quiet", entry["file"]],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        stamp.touch()
        return Result([stamp], [], 1)
    return Result([], [done.stdout or done.stderr], 1)


if __name__ == "__main__":
    main()
