"""Triton's own server for a comparison: from nvidia-pytriton's wheel, with the Python backend."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from torchship.script.runtime.archive import Archive
from torchship.serve.protocol.wire_signature import describe_config

BUILD = Path(__file__).resolve().parent.parent / "build/bench/triton"
START_SECONDS = 120

MODEL = """
import torch
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        torch.set_num_threads(1)
        self.module = torch.jit.load({file!r})

    def execute(self, requests):
        with torch.inference_mode():
            return [self.one(request) for request in requests]

    def one(self, request):
        inputs = [
            torch.from_numpy(triton.get_input_tensor_by_name(request, name).as_numpy().copy())
            for name in {inputs!r}
        ]
        outputs = flat(self.module(*inputs))
        return triton.InferenceResponse(
            [triton.Tensor(n, o.contiguous().numpy()) for n, o in zip({outputs!r}, outputs)]
        )


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for part in value for leaf in flat(part)]
"""


def installed() -> Path:
    """Return the folder of the server, which pip downloads once."""
    server = BUILD / "pytriton/tritonserver"
    if not server.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(BUILD)]
        subprocess.run([*command, "nvidia-pytriton"], check=True)
        (wheel,) = BUILD.glob("nvidia_pytriton*.whl")
        with zipfile.ZipFile(wheel) as content:
            content.extractall(BUILD)
        wheel.unlink()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = server / "backends/python/triton_python_backend_stub"
    shutil.copy(server / f"python_backend_stubs/{version}/{backend.name}", backend)
    for program in (server / "bin/tritonserver", backend):
        program.chmod(0o755)
    return server


def write_model(archive: Archive, repository: Path) -> None:
    """Write a model that runs an archive's TorchScript in Triton's Python backend."""
    manifest = archive.require_manifest()
    config = describe_config(manifest)
    folder = repository / manifest.name / "1"
    folder.mkdir(parents=True)
    tensors = {kind: _tensors(config, kind) for kind in ("input", "output")}
    lines = [f'name: "{manifest.name}"', 'backend: "python"', "max_batch_size: 0"]
    for kind, found in tensors.items():
        for name, data_type, dims in found:
            lines.append(f'{kind} {{ name: "{name}" data_type: {data_type} dims: {dims} }}')
    lines.append("instance_group { kind: KIND_CPU count: 1 }")
    (folder.parent / "config.pbtxt").write_text("\n".join(lines))
    source = MODEL.format(
        file=str(archive.path),
        inputs=[name for name, _, _ in tensors["input"]],
        outputs=[name for name, _, _ in tensors["output"]],
    )
    (folder / "model.py").write_text(source)


def _tensors(config: dict[str, object], kind: str) -> list[tuple[str, str, list[int]]]:
    entries = config[kind]
    assert isinstance(entries, list)
    return [(entry["name"], entry["data_type"], list(entry["dims"])) for entry in entries]


@contextmanager
def triton_servers(archives: Sequence[Archive]) -> Iterator[tuple[str, str]]:
    """Run the server until the block ends; yield its addresses of HTTP and of gRPC."""
    server = installed()
    libraries = (str(sysconfig.get_config_var("LIBDIR")), str(BUILD / "nvidia_pytriton.libs"))
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile("w+") as log:
        for archive in archives:
            write_model(archive, Path(name))
        http, grpc = _free_port(), _free_port()
        process = subprocess.Popen(
            [
                server / "bin/tritonserver",
                f"--model-repository={name}",
                f"--backend-directory={server / 'backends'}",
                f"--http-port={http}",
                f"--grpc-port={grpc}",
                "--allow-metrics=false",
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(process, f"http://127.0.0.1:{http}/v2/health/ready")
            yield f"http://127.0.0.1:{http}", f"grpc://127.0.0.1:{grpc}"
        except BaseException:
            log.seek(0)
            print(log.read()[-4000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("Triton's server did not become ready")
