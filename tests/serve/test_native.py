"""`--native`: compiled code answers where it can, and LibTorch otherwise."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from served import MORE, Model, write
from torchship.native.cli import make_library
from torchship.native.compiler import compile_archive
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.format.golden import Case
from torchship.script.format.manifest import Manifest
from torchship.script.format.tree import Flat
from torchship.script.runtime.agreement import check_outputs
from torchship.script.runtime.archive import Archive, open_archive
from torchship.serve.client.client import Client
from torchship.serve.protocol.messages import (
    HEADER_LENGTH,
    InferRequest,
    decode_response,
    encode_request,
)
from torchship.serve.protocol.wire_signature import Signature

Launch = Callable[..., Any]
MakeArchive = Callable[..., Path]


def environment(cache: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TORCHSHIP_NATIVE_CACHE": str(cache), **more}


def runtime_of(server: Any, model: str) -> str:
    answer = httpx.get(f"{server.url}/v2/models/{model}", trust_env=False).json()
    found: str = answer["parameters"]["runtime"]
    return found


def answers(server: Any, path: Path) -> bool:
    """Return whether the server's answers to an archive's golden cases of one step agree."""
    archive = open_archive(path)
    manifest = archive.require_manifest()
    with Client(server.url) as client:
        for number, case in enumerate(archive.golden):
            signature, inputs = manifest.methods[case.method], case.steps[0].inputs
            for binary in (True, False):
                result = client.infer(manifest.name, signature, inputs, case.method, binary)
                assert agree(manifest, number, first_step(case), [result])
    return True


def first_step(case: Case) -> Case:
    return Case(case.name, case.method, case.steps[:1])


def agree(manifest: Manifest, number: int, case: Case, results: list[Flat]) -> bool:
    return all(found.agreed for found in check_outputs(manifest, number, case, results))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shipped")
    return {
        name: export(find_target(name, None, {}), folder / f"{name}.pt").path
        for name in ("moba", "snake-lstm")
    }


@pytest.fixture(scope="module")
def compiled(
    shipped: dict[str, Path], launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Return a server of compiled code."""
    cache = tmp_path_factory.mktemp("cache")
    with launch("--native", "auto", *shipped.values(), environment=environment(cache)) as server:
        assert server.line() == "ready: moba/1, snake-lstm/1"
        yield server


@pytest.mark.parametrize("name", ["moba", "snake-lstm"])
def test_compiled_code_answers_within_the_tolerances(
    compiled: Any, shipped: dict[str, Path], name: str
) -> None:
    assert runtime_of(compiled, name) == "native"
    assert f"model '{name}' is served by compiled code" in compiled.stderr(f"'{name}'")
    assert answers(compiled, shipped[name])


def test_sequences_step_compiled_code(compiled: Any, shipped: dict[str, Path]) -> None:
    archive = open_archive(shipped["snake-lstm"])
    manifest = archive.require_manifest()
    number, case = next(
        (number, case)
        for number, case in enumerate(archive.golden)
        if len(case.steps) == 3 and case.method == "forward"
    )
    state = {known.input for known in manifest.methods["forward"].state}
    given = {name: value for name, value in case.steps[0].inputs.items() if name in state}
    results = []
    for index, step in enumerate(case.steps):
        inputs = {n: v for n, v in step.inputs.items() if n not in state} | (
            given if index == 0 else {}
        )
        results.append(stepped(compiled, archive, inputs, start=index == 0))
    assert agree(manifest, number, case, results)


def stepped(server: Any, archive: Archive, inputs: Flat, start: bool) -> Flat:
    """Return the outputs of a step of one sequence."""
    manifest = archive.require_manifest()
    parameters = {"sequence_id": "game", "sequence_start": start, "binary_data_output": True}
    wire = Signature(manifest.methods["forward"]).to_wire(inputs)
    body, length = encode_request(InferRequest(wire, parameters=parameters), lambda name: True)
    answer = httpx.post(
        f"{server.url}/v2/models/{manifest.name}/infer",
        content=body,
        headers={HEADER_LENGTH: str(length)},
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    found = decode_response(answer.content, answer.headers[HEADER_LENGTH]).outputs
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def test_metrics_tell_what_runs_a_model(compiled: Any) -> None:
    text = httpx.get(f"{compiled.url}/metrics", trust_env=False).text
    assert 'torchship_model_runtime{model="moba",runtime="native",version="1"} 1.0' in text


def test_libtorch_serves_where_there_is_no_compiler(
    launch: Launch, archives: dict[str, Path], tmp_path: Path
) -> None:
    given = environment(tmp_path, CC="missing")
    with launch("--native", "auto", archives["memory"], environment=given) as server:
        assert server.line() == "ready: memory/1"
        expected = "model 'memory' is served by LibTorch: there is no C compiler ('missing'"
        assert expected in server.stderr(expected)
        assert runtime_of(server, "memory") == "libtorch"
        assert answers(server, archives["memory"])


def test_libtorch_serves_what_has_no_c(
    launch: Launch, archives: dict[str, Path], tmp_path: Path
) -> None:
    paths = archives["nested"], archives["memory"]
    with launch("--native", "auto", *paths, environment=environment(tmp_path)) as server:
        assert server.line() == "ready: nested/1, memory/1"
        expected = "model 'nested' is served by LibTorch: input 'many' of method 'forward'"
        assert expected in server.stderr(expected)
        assert [runtime_of(server, name) for name in ("nested", "memory")] == ["libtorch", "native"]
        assert answers(server, archives["nested"])


def test_without_the_setting_libtorch_serves(launch: Launch, archives: dict[str, Path]) -> None:
    with launch(archives["memory"]) as server:
        assert server.line() == "ready: memory/1"
        assert runtime_of(server, "memory") == "libtorch"


def test_a_library_in_a_folder_serves_its_own_archive_only(
    launch: Launch, archives: dict[str, Path], make_archive: MakeArchive, tmp_path: Path
) -> None:
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    make_library(compile_archive(open_archive(archives["memory"])), libraries / "memory.so")
    newer = make_archive("memory", version="2")
    given = environment(tmp_path / "cache", CC="missing")
    paths = archives["memory"], newer
    with launch("--native", libraries, *paths, environment=given) as server:
        assert server.line() == "ready: memory/1, memory/2"
        expected = (
            f"model 'memory' is served by LibTorch: 'memory.so' in '{libraries}' was compiled from "
            "another archive"
        )
        assert expected in server.stderr(expected)
        assert runtime_of(server, "memory/versions/1") == "native"
        assert runtime_of(server, "memory/versions/2") == "libtorch"


class Tripled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3


def test_libtorch_serves_when_a_golden_case_differs(
    launch: Launch, make_archive: MakeArchive, tmp_path: Path
) -> None:
    path = make_archive("held")
    right = MORE["held"]()
    write(tmp_path / "wrong.pt", Model(Tripled(), right.methods, right.cases), "held")
    wrong, archive = open_archive(tmp_path / "wrong.pt"), open_archive(path)
    library = tmp_path / "held.so"
    make_library(compile_archive(wrong), library)
    forged = library.read_bytes().replace(wrong.digest.encode(), archive.digest.encode())
    library.write_bytes(forged)
    with launch("--native", tmp_path, path) as server:
        assert server.line() == "ready: held/1"
        expected = "model 'held' is served by LibTorch: golden case 0 ("
        assert expected in server.stderr(expected)
        assert runtime_of(server, "held") == "libtorch"
        assert answers(server, path)


def test_several_workers_compile_once(
    launch: Launch, archives: dict[str, Path], tmp_path: Path
) -> None:
    record, script = tmp_path / "compilations", tmp_path / "cc"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo >> {record}\nexec cc "$@"\n')
    script.chmod(0o755)
    given = environment(tmp_path / "cache", CC=str(script))
    options = "--native", "auto", "--workers", 2
    with launch(*options, archives["tiny"], environment=given) as server:
        assert server.line() == "ready: tiny/1"
        said = server.stderr("served by compiled code")
        assert said.count("model 'tiny' is served by compiled code") == 2
        assert answers(server, archives["tiny"])
    assert len(record.read_text().splitlines()) == 1
    assert [file.suffix for file in (tmp_path / "cache").glob("*.*")] == [".so"]


def test_a_folder_that_is_not_there_is_refused(
    launch: Launch, archives: dict[str, Path], tmp_path: Path
) -> None:
    with launch("--native", tmp_path / "none", archives["memory"]) as server:
        assert server.popen.wait(60) == 2
        expected = "setting 'native': expected off, auto or a folder of libraries, got '"
        assert expected in server.stderr()
