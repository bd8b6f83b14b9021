"""The version stands in CMakeLists.txt alone; whatever says it says that one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from c_abi import library
from cmake_projects import ROOT
from served import launched, make
from torchship.cpp_runner.binary import cmake_prefix

[VERSION] = re.findall(
    r"^project\(torchship VERSION (\d+\.\d+\.\d+)\b",
    (ROOT / "CMakeLists.txt").read_text(),
    re.MULTILINE,
)


def test_the_installed_package() -> None:
    assert version("torchship") == VERSION


@pytest.mark.parametrize("names", [["--version"], ["--version", "serve"]])
def test_the_command(names: list[str]) -> None:
    command = [sys.executable, "-m", "torchship", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"torchship {VERSION}\n"


def test_the_c_abi() -> None:
    assert library().torchship_version().decode() == VERSION


def test_the_cmake_package_and_pkg_config() -> None:
    [config] = cmake_prefix().rglob("torchship-config-version.cmake")
    assert f'set(PACKAGE_VERSION "{VERSION}")' in config.read_text()
    [description] = cmake_prefix().rglob("torchship-c.pc")
    assert f"\nVersion: {VERSION}\n" in description.read_text()


def test_the_server_and_its_openapi_document(tmp_path: Path) -> None:
    with launched(make(tmp_path, "tiny")) as server:
        server.line()
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            assert client.get("/v2").json()["version"] == VERSION
            assert client.get("/openapi.json").json()["info"]["version"] == VERSION


def test_what_is_built_from_the_checkout(tmp_path: Path) -> None:
    hook = "import backend, sys; backend.prepare_metadata_for_build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", hook, tmp_path],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "deploy")},
        check=True,
    )
    [metadata] = tmp_path.glob("*.dist-info/METADATA")
    assert f"\nVersion: {VERSION}\n" in metadata.read_text()


def test_the_newest_release_of_the_changelog() -> None:
    heads = re.findall(r"^## \[(.*?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    releases = heads[1:]
    assert releases[0][0] == VERSION
    assert all(re.fullmatch(r" - \d{4}-\d{2}-\d{2}", date) for _, date in releases)
    numbers = [tuple(map(int, name.split("."))) for name, _ in releases]
    assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize("page", [*sorted(map(str, ROOT.glob("docs/*.md"))), "README.md"])
def test_documents_that_show_it(page: str) -> None:
    shown = re.findall(r"\btorchship (\d+\.\d+\.\d+)\b", (ROOT / page).read_text())
    assert set(shown) <= {VERSION}
