"""What a server tells of a live archive: its manifest, its proof, its golden cases, its wasm."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import torch
from typer.testing import CliRunner

from served import Edit, make
from torchship.native.cli import app as native
from torchship.native.running import compiled
from torchship.script.format.golden import Case, from_safetensors
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine import engine as engines
from torchship.serve.http.app import create_app
from torchship.serve.repository.repository import Repository

Work = Callable[[httpx.AsyncClient], Awaitable[None]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TORCHSHIP_NATIVE_CACHE", str(folder))
    return folder


@asynccontextmanager
async def serving(*paths: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Have the application in this process."""
    repository = Repository(paths)
    await repository.load()
    assert repository.ready, repository.summary()
    app = create_app(repository)
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            yield client
    finally:
        app.codec.close()
        await app.state.sequences.close()
        repository.release()
        assert repository.join(60)


def served(work: Work, *paths: Path) -> None:
    async def run() -> None:
        async with serving(*paths) as client:
            await work(client)

    asyncio.run(run())


def assert_same_cases(record: bytes, path: Path) -> None:
    archive = open_archive(path)
    manifest = archive.require_manifest()
    found = from_safetensors(record, manifest.golden, manifest.methods)

    def flat(cases: Sequence[Case]) -> list[tuple[Flat, Flat]]:
        return [(step.inputs, step.outputs) for case in cases for step in case.steps]

    assert [case.name for case in found] == [case.name for case in archive.golden]
    torch.testing.assert_close(flat(found), flat(archive.golden), rtol=0, atol=0)


def test_an_archive_says_what_it_is(archives: dict[str, Path], server: Any) -> None:
    archive = open_archive(archives["memory"])
    for place in ("memory", "memory/versions/1"):
        answer = httpx.get(f"{server.url}/v2/models/{place}/archive", trust_env=False)
        said = answer.json()
        assert said["manifest"] == orjson.loads(archive.require_manifest().to_json())
        assert (said["sha256"], said["bytes"]) == (archive.digest, archive.size)
        (proved,) = said["proof"]["runtimes"]
        assert proved == {"runtime": "serving engine", "worst": 0, "cases": 1, "outputs": 6}


def test_each_version_has_its_own_archive(server: Any) -> None:
    said = {}
    for place in ("tiny", "tiny/versions/10", "tiny/versions/9", "tiny/versions/1"):
        url = f"{server.url}/v2/models/{place}/archive"
        said[place] = httpx.get(url, trust_env=False).json()["manifest"]["version"]
    assert [*said.values()] == ["10", "10", "9", "1"]


def test_what_is_not_there_is_refused(server: Any) -> None:
    for path in ("", "/golden", "/wasm/model.mjs", "/wasm/model.wasm"):
        for model in ("nothing", "tiny/versions/2"):
            url = f"{server.url}/v2/models/{model}/archive{path}"
            answer = httpx.get(url, trust_env=False)
            assert answer.status_code == 404
            assert "is unknown" in answer.json()["error"]
    other = httpx.get(f"{server.url}/v2/models/tiny/archive/wasm/other.mjs", trust_env=False)
    assert other.status_code == 404


def shifted(by: float) -> Edit:
    def edit(outputs: Flat) -> Flat:
        return {name: value + by for name, value in outputs.items()}

    return edit


def test_the_proof_is_what_the_engine_found(tmp_path: Path) -> None:
    path = make(tmp_path, "memory", edit=shifted(2**-18))
    before = datetime.now(timezone.utc)

    async def work(client: httpx.AsyncClient) -> None:
        proof = (await client.get("/v2/models/memory/archive")).json()["proof"]
        when = datetime.fromisoformat(proof["when"])
        assert timedelta(0) <= when - before <= datetime.now(timezone.utc) - before
        (proved,) = proof["runtimes"]
        assert proved["worst"] == pytest.approx(2**-18, rel=0.1)

    served(work, path)


@pytest.mark.parametrize("kept", [1 << 20, 0], ids=["kept", "read again"])
def test_golden_cases_are_all_there(
    tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "EXAMPLE_BYTES", kept)
    path = make(tmp_path, "tiny")
    copy = tmp_path / "copy"
    shutil.copy(path, copy)

    async def work(client: httpx.AsyncClient) -> None:
        place = "/v2/models/tiny/archive/golden"
        answer = await client.get(place)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert_same_cases(answer.content, copy)
        make(tmp_path, "tiny", edit=shifted(0), file=path.name)
        path.write_bytes(path.read_bytes() + b"changed")
        answer = await client.get(place)
        if kept:
            assert_same_cases(answer.content, copy)
            return
        assert answer.status_code == 503
        assert answer.json()["error"] == (
            "model 'tiny': 'tiny-1.pt' is gone or has changed since it was loaded: put the file "
            "back, or load the model again"
        )
        path.unlink()
        assert (await client.get(place)).status_code == 503

    served(work, path)


def test_the_wasm_is_that_of_the_command(tmp_path: Path, cache: Path) -> None:
    path = make(tmp_path, "memory")
    folder = "/v2/models/memory/archive/wasm"

    async def work(client: httpx.AsyncClient) -> None:
        names = ("model.mjs", "model.wasm") * 2  # at the same time: one process compiles
        answers = await asyncio.gather(*(client.get(f"{folder}/{name}") for name in names))
        assert [answer.status_code for answer in answers] == [200] * 4
        types = [answer.headers["content-type"] for answer in answers]
        assert types == ["text/javascript; charset=utf-8", "application/wasm"] * 2
        assert len(list(cache.iterdir())) == 1
        output = tmp_path / "model.wasm"
        command = [str(path), "--target", "wasm", "-o", str(output)]
        assert CliRunner().invoke(native, command).exit_code == 0
        for name, answer in zip(names, answers, strict=True):
            assert answer.content == (tmp_path / name).read_bytes()
        path.unlink()  # it is compiled already
        assert (await client.get(f"{folder}/model.wasm")).content == output.read_bytes()
        shutil.rmtree(cache)  # and now it is not any more
        answer = await client.get(f"{folder}/model.wasm")
        assert answer.status_code == 503
        assert "is gone or has changed" in answer.json()["error"]

    served(work, path)


def test_what_cannot_be_compiled_says_why(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [make(tmp_path, name) for name in ("spread", "memory")]

    async def work(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            answer = await client.get("/v2/models/spread/archive/wasm/model.wasm")
            assert answer.status_code == 400
            assert answer.json()["error"].startswith("model 'spread': served.py:")
            assert answer.json()["error"].endswith("operator aten::repeat has no C yet")
        monkeypatch.setenv("WASM_CC", "no-such-compiler")
        answer = await client.get("/v2/models/memory/archive/wasm/model.wasm")
        assert answer.status_code == 501
        for package in ("clang", "lld", "wasi-libc"):
            assert package in answer.json()["error"]

    served(work, *paths)


def test_a_large_archive_is_not_compiled(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = open_archive(make(tmp_path, "memory"))
    monkeypatch.setattr(compiled, "LARGEST", archive.size - 1)
    with pytest.raises(Exception, match=r"at most 0 MiB are compiled by a server: use .* wasm`"):
        compiled.check_size(archive, "wasm")
