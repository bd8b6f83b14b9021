"""Our models through the whole journey: every runtime, one set of numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import torch

from torchship.agreement import all_runtimes, verify_archive
from torchship.cpp_runner.binary import runner_path
from torchship.models import registry
from torchship.script.format.tree import Flat
from torchship.script.runtime import torchscript_file
from torchship.script.runtime.archive import open_archive, pack
from torchship.script.runtime.batch import batch_axes, row_count
from torchship.serve.client.grpc_runtime import GrpcRuntime
from torchship.serve.client.http_runtime import HttpRuntime, RunningServer
from torchship.serve.client.local_server import GRPC, Addresses, running_servers
from torchship.serve.protocol.tensors import datatype_of
from torchship.serve.protocol.wire_signature import Signature

LIBTORCH = ["eager", "script", "C++", "HTTP", "gRPC"]
RUNTIMES = [*LIBTORCH, "native", "wasm"]


@pytest.fixture(scope="module")
def archives(model_archive: Callable[[str], Path]) -> Path:
    (folder,) = {model_archive(name).parent for name in registry.names()}
    return folder


def torchship(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torchship", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def server(archives: Path) -> Iterator[Addresses]:
    """One server for all models, as a service would run it."""
    paths = [archives / f"{name}.pt" for name in registry.names()]
    with running_servers(paths, options=GRPC) as addresses:
        yield addresses


@pytest.mark.parametrize("name", registry.names())
def test_every_runtime_agrees(name: str, archives: Path, server: Addresses) -> None:
    runtimes = {
        **all_runtimes(),
        "http": HttpRuntime(running=RunningServer(server.http)),
        "grpc": GrpcRuntime(address=server.grpc),
    }
    report = verify_archive(open_archive(archives / f"{name}.pt"), list(runtimes.values()))
    assert report.agreed
    assert [result.runtime for result in report.results] == RUNTIMES
    for result in report.results:
        assert result.p50_us is not None
        assert result.p50_us > 0
        checked = {(d.case, d.step, d.output) for d in result.differences}
        assert len(checked) == sum(
            len(step.outputs) for case in report.archive.golden for step in case.steps
        )
        for difference in result.differences:
            if result.runtime in LIBTORCH:
                assert difference.bit_identical, (result.runtime, difference)
                assert (difference.max_abs, difference.max_rel, difference.max_ulp) == (0, 0, 0)


@pytest.mark.parametrize("name", registry.names())
def test_tritons_grpc_client_gets_the_golden_outputs(
    name: str, archives: Path, server: Addresses
) -> None:
    """In single calls and over a stream, with the client's own code in between."""
    triton = import_module("tritonclient.grpc")
    archive = open_archive(archives / f"{name}.pt")
    streamed: Queue[tuple[Any, Any]] = Queue()
    with triton.InferenceServerClient(server.grpc.removeprefix("grpc://")) as client:
        client.start_stream(lambda result, error: streamed.put((result, error)))
        for case in archive.golden:
            signature = Signature(archive.require_manifest().methods[case.method])
            first = case.steps[0]
            inputs = []
            for key, value in signature.to_wire(first.inputs).items():
                assert isinstance(value, torch.Tensor)
                tensor = triton.InferInput(key, list(value.shape), datatype_of(value))
                tensor.set_data_from_numpy(value.numpy())
                inputs.append(tensor)
            asked = {"model_name": name, "inputs": inputs, "parameters": {"method": case.method}}
            check(client.infer(**asked), first.outputs)
            client.async_stream_infer(**asked, request_id=case.name)
            result, error = streamed.get(timeout=60)  # in one batch, both might round otherwise
            assert error is None
            assert result.get_response().id == case.name
            check(result, first.outputs)
        client.stop_stream()


def check(result: Any, outputs: Flat) -> None:
    """Compare an answer with golden outputs, bit by bit."""
    for key, golden in outputs.items():
        found = result.as_numpy(key)
        assert found.shape == tuple(golden.shape)
        assert found.tobytes() == golden.numpy().tobytes(), key


@pytest.mark.parametrize("name", registry.names())
def test_every_method_is_checked_at_one_two_and_more_rows(name: str, archives: Path) -> None:
    archive = open_archive(archives / f"{name}.pt")
    for method_name, method in archive.require_manifest().methods.items():
        axes = batch_axes(method)
        if not axes:
            assert method_name == "generate"
            continue
        cases = [case for case in archive.golden if case.method == method_name]
        sizes = {row_count(case.steps[0].inputs, axes) for case in cases}
        assert {1, 2} <= sizes
        assert max(sizes) >= 4


def test_verify_says_the_same_on_the_command_line(archives: Path) -> None:
    done = torchship("verify", archives / "xor.pt", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["agreed"] is True
    assert [entry["runtime"] for entry in report["runtimes"]] == RUNTIMES
    for entry in report["runtimes"]:
        for output in entry["outputs"] if entry["runtime"] in LIBTORCH else ():
            assert output["bit_identical"] is True
            assert (output["max_abs"], output["max_rel"], output["max_ulp"]) == (0, 0, 0)


def test_recurrent_golden_cases_take_three_steps_and_a_state_that_is_not_zero(
    archives: Path,
) -> None:
    for name, state in (
        ("lstm", "hidden.1"),
        ("charlstm", "hidden.0"),
        ("moba", "c"),
        ("snake-lstm", "h"),
    ):
        cases = open_archive(archives / f"{name}.pt").golden
        assert any(len(case.steps) >= 3 for case in cases)
        assert any(bool(case.steps[0].inputs.get(state, torch.zeros(1)).any()) for case in cases)


def test_a_mismatch_ends_with_exit_code_1_in_both_commands(archives: Path, tmp_path: Path) -> None:
    archive = open_archive(archives / "fizzbuzz.pt")
    module = archive.load()
    with_other_bias = module.state_dict()
    for name, tensor in with_other_bias.items():
        if name.endswith("bias"):
            tensor += 0.01
    path = tmp_path / "wrong.pt"
    path.write_bytes(
        pack(torchscript_file.save(module), archive.require_manifest(), archive.golden)
    )
    done = torchship("verify", path, "--runtime", "script", "--runtime", "cpp")
    assert done.returncode == 1
    assert "NOT AGREED" in done.stdout
    assert "first submodule that differs: " in done.stdout
    runner = subprocess.run([runner_path(), "verify", path], capture_output=True, check=False)
    assert runner.returncode == 1


def test_exit_codes_of_bad_usage_and_bad_archives(archives: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_bytes((archives / "fizzbuzz.pt").read_bytes()[:-100])
    for arguments, code, message in (
        (["verify", bad], 3, "'bad.pt': not a readable zip"),
        (["verify", tmp_path / "none.pt"], 3, "No such file"),
        (["verify", archives / "fizzbuzz.pt", "--runtime", "java"], 2, "--runtime 'java'"),
        (["script", "fizbuzz"], 2, "no model 'fizbuzz'"),
        (["inspect", bad], 3, "'bad.pt': not a readable zip"),
    ):
        done = torchship(*arguments)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert done.stderr.startswith("torchship: error: ")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
