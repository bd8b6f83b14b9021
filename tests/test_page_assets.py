"""The libraries of the page, fetched by the real npm from a registry of this test's own."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import page_assets
import pytest

ROOT = Path(__file__).resolve().parents[1]


def package(name: str, version: str) -> bytes:
    """Return a package as npm has it, with the files that we take, which say whose they are."""
    files = [s.partition("/")[2] for s in page_assets.FILES.values() if s.startswith(f"{name}/")]
    about = {"name": name, "version": version, "scripts": {"postinstall": "exit 1"}}
    content = {"package.json": json.dumps(about), **{f: f"{name}/{f} {version}" for f in files}}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
        for path, text in content.items():
            entry = tarfile.TarInfo(f"package/{path}")
            entry.size = len(text)
            file.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


class Registry:
    """A registry with a few packages; it knows what it was asked for."""

    def __init__(self, packages: dict[str, tuple[str, bytes]]) -> None:
        self.packages = packages
        self.asked: list[str] = []
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                name, _, file = self.path.strip("/").replace("%2f", "/").partition("/-/")
                found = registry.packages.get(name)
                content = registry.about(name) if found and not file else (found or ("", b""))[1]
                self.send_response(200 if found else 404)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def about(self, name: str) -> bytes:
        version, _ = self.packages[name]
        dist = {"tarball": f"{self.url}{name}/-/{name.partition('/')[2] or name}-{version}.tgz"}
        one = {"name": name, "version": version, "dist": dist}
        return json.dumps(
            {"name": name, "dist-tags": {"latest": version}, "versions": {version: one}}
        ).encode()


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """What fetches, and the lists of what: without the files themselves."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "ui").mkdir()
    shutil.copy(page_assets.__file__, tmp_path / "deploy")
    for name in ("package.json", page_assets.LOCK):
        shutil.copy(ROOT / "ui" / name, tmp_path / "ui")
    return tmp_path


@pytest.fixture
def registry(sources: Path) -> Iterator[Registry]:
    """A registry of packages for which the lock of `sources` has the digests."""
    path = sources / "ui" / page_assets.LOCK
    lock = json.loads(path.read_text())
    packages = {}
    for place, entry in lock["packages"].items():
        if place:
            name = place.removeprefix("node_modules/")
            packed = package(name, entry["version"])
            packages[name] = (entry["version"], packed)
            digest = hashlib.sha512(packed).digest()
            entry["integrity"] = f"sha512-{base64.b64encode(digest).decode()}"
    path.write_text(json.dumps(lock))
    made = Registry(packages)
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def fetch(sources: Path, registry: str) -> subprocess.CompletedProcess[str]:
    """Fetch as a user does whose npm is configured for that registry."""
    cache = str(sources / "cache")
    settings = {"npm_config_registry": registry, "npm_config_cache": cache,
                "npm_config_fetch_retries": "0", "no_proxy": "127.0.0.1"}  # fmt: skip
    return subprocess.run(
        [sys.executable, sources / "deploy" / "page_assets.py"],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def test_npm_fetches_from_where_its_user_says(sources: Path, registry: Registry) -> None:
    done = fetch(sources, registry.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name, source in page_assets.FILES.items():
        package = source.partition("/")[0]
        version, _ = registry.packages[package]
        assert (sources / "ui" / name).read_text() == f"{source} {version}"
    assert not (sources / "ui" / "node_modules").exists()

    asked = len(registry.asked)
    assert asked > 0
    assert fetch(sources, registry.url).returncode == 0
    assert len(registry.asked) == asked  # they are there


def test_another_lock_fetches_again(sources: Path, registry: Registry) -> None:
    assert fetch(sources, registry.url).returncode == 0
    lock = sources / "ui" / page_assets.LOCK
    lock.write_text(lock.read_text() + "\n")
    (sources / "ui" / "page" / "ui" / "vendor" / "uPlot.esm.js").write_text("an older one")
    assert fetch(sources, registry.url).returncode == 0
    fetched = (sources / "ui" / "page" / "ui" / "vendor" / "uPlot.esm.js").read_text()
    assert fetched.startswith("uplot/dist")


def test_a_package_with_another_digest_is_refused(sources: Path, registry: Registry) -> None:
    version, _ = registry.packages["uplot"]
    registry.packages["uplot"] = (version, package("uplot", f"{version} with more in it"))
    done = fetch(sources, registry.url)
    assert done.returncode == 1
    assert "EINTEGRITY" in done.stderr
    assert "torchship: npm could not fetch the page's libraries" in done.stderr
    assert not (sources / "ui" / page_assets.FETCHED).exists()
    assert not (sources / "ui" / "docs").exists()


def test_without_a_registry_the_message_says_whose_configuration_counts(sources: Path) -> None:
    closed = "http://127.0.0.1:1/"
    done = fetch(sources, closed)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "uplot 1." in last
    assert "registry and the proxy of your npm configuration" in last
    assert "an sdist has these files" in last


def test_the_lock_has_digests_and_names_no_registry() -> None:
    lock = json.loads((ROOT / "ui" / page_assets.LOCK).read_text())
    asked = json.loads((ROOT / "ui" / "package.json").read_text())["dependencies"]
    for place, entry in lock["packages"].items():
        assert "resolved" not in entry
        assert not place or entry["integrity"].startswith("sha512-")
    for name, version in asked.items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    assert "://" not in (ROOT / "ui" / page_assets.LOCK).read_text()


def test_git_knows_none_of_the_files() -> None:
    names = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "ui"], capture_output=True, text=True, check=True
    ).stdout.split()
    fetched = {f"ui/{name}" for name in (*page_assets.FILES, page_assets.FETCHED)}
    assert not fetched & set(names)
