"""The documents are correct: commands print what is shown, and links resolve.

A ```console block is run in bash, all blocks of a page in one empty folder, in order. A line that
begins with `$ ` is a command; what follows is its output. Figures may differ from machine to
machine: every number is compared as a number, not by its value, but a lone 0 and what a model has
on any machine (parameters, golden cases). `...` stands for any lines. A ```python block that
begins with `# name.py` is that file in the folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ports import held_port

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
END = "--- end of output ---"
NUMBER = r"(?P<exact>\b\d[\d,]* (?:parameters|golden cases)\b)|\d[\d.,]*(?:e[-+]?\d+)?"


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def steps(block: str) -> list[tuple[str, str]]:
    """The commands of a block, each with the output shown."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
    assert parts[0].strip() == "", "a console block begins with a command"
    found = []
    for part in parts[1:]:
        lines = part.split("\n")
        count = 1
        while lines[count - 1].endswith("\\"):
            count += 1
        found.append(("\n".join(lines[:count]), "\n".join(lines[count:])))
    return found


def normal(text: str) -> list[str]:
    """Lines with every number but 0, every digest and every run of spaces or borders made alike."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r"\b[0-9a-f]{64}\b", "1", line)
        line = re.sub(NUMBER, lambda m: m[0] if m[0] == "0" or m["exact"] else "N", line)
        line = re.sub(r"[\s─━┃│┏┓┡┩┳╇┬┴└┘┌┐├┤┼╌]+", " ", line).strip()
        if line:
            lines.append(line)
    return lines


def pattern(shown: str) -> str:
    parts = [re.escape(line) if line != "..." else None for line in normal(shown)]
    return "".join(".*?" if part is None else part + "\n" for part in parts)


@pytest.fixture
def ports() -> Iterator[dict[str, str]]:
    """Return what the page's ports become: nobody else gets them while the page runs."""
    with held_port() as http, held_port() as grpc, held_port() as ray:
        yield {"8000": str(http), "8001": str(grpc), "6380": str(ray)}


def replaced(text: str, words: Mapping[str, str]) -> str:
    for word, other in words.items():
        text = text.replace(word, other)
    return text


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")], ids=str)
def test_commands_print_what_is_shown(page: Path, tmp_path: Path, ports: dict[str, str]) -> None:
    found = [step for block in blocks(page, "console") for step in steps(block)]
    for source in blocks(page, "python"):
        name = re.match(r"# (\w+\.py)\n", source)
        assert name, "a python block begins with the name of its file"
        (tmp_path / name.group(1)).write_text(replaced(source, ports))
    script = "".join(f"{replaced(command, ports)}\necho '{END}'\n" for command, _ in found)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "120",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_AUTH_MODE": "disabled",  # whether or not this user has a token of another cluster
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a cluster listens on 127.0.0.1 only
    }
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"set -e\ntrap 'kill $(jobs -p) 2>/dev/null && wait || true' EXIT\n{script}",
        ],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    shown_as = {port: shown for shown, port in ports.items()}
    printed = done.stdout.split(f"{END}\n")
    assert done.returncode == 0, f"{found[len(printed) - 1][0]}\n{printed[-1]}"
    for (command, shown), output in zip(found, printed, strict=False):
        actual = "".join(f"{line}\n" for line in normal(replaced(output, shown_as)))
        assert re.fullmatch(pattern(shown), actual, re.DOTALL), f"$ {command}\n{output}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=str)
def test_make_has_the_targets_that_are_shown(page: Path) -> None:
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            command = line.split("#")[0].split()
            assert command[0] == "make", f"{line}: show other commands in a console block"
            done = subprocess.run(
                [*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=str)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:tests|bench|docs|script|serve|models|cpp_runner)/[\w/]+\.\w+)`",
                           page.read_text()):  # fmt: skip
        assert (ROOT / name).exists(), f"{page.name} names {name}"
