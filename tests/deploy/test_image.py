"""The images, built by the steps of the Dockerfile in roots of debootstrap, and run as containers.

It needs root, and indexes of apt and pip, as `make` does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import build_image
import httpx
import pytest
import wheelhouse
from build_image import Image
from debian_root import Container

from torchship.models import registry

ROOT = Path(__file__).resolve().parents[2]
# Something has crept in if they grow beyond that.
MEGABYTES = {"server": 800, "runner": 500}
USER, STRANGER = "10001:10001", "123456:0"  # the image's, and one of a cluster that chooses

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("debootstrap") is None,
        reason="needs root and debootstrap",
    ),
    pytest.mark.timeout(1200),  # both images are built for the first test
]


@pytest.fixture(scope="module")
def images(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Image]]:
    """Build both images; yield what they say of themselves. TORCHSHIP_IMAGES has them already."""
    built = os.environ.get("TORCHSHIP_IMAGES")
    folder = Path(built) if built else tmp_path_factory.mktemp("image")
    if not built:
        build(folder, request.getfixturevalue("wheel"))
    yield {name: Image(**json.loads((folder / f"{name}.json").read_text())) for name in MEGABYTES}
    if not built:
        shutil.rmtree(folder)


def build(folder: Path, wheel: Path) -> None:
    wheels = ROOT / "build" / "wheelhouse"
    wheelhouse.fetch(wheels, wheel, "redis,s3", "3.11")
    torch = "cpu" if version("torch").endswith("+cpu") else "cuda"
    command: list[str | Path] = [sys.executable, build_image.__file__, folder]
    command += ["--wheel", wheel, "--wheels", wheels, "--target", "runner", "--target", "server"]
    command += ["--arg", f"TORCH={torch}", "--arg", "PIP_ARGS=--no-index --find-links /wheelhouse"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)


@pytest.fixture(scope="module")
def archives(model_archive: Callable[[str], Path]) -> Path:
    """Return a folder with an archive of each of our models."""
    return {model_archive(name).parent for name in registry.names()}.pop()


def container(image: Image, models: Path, user: str = "", **variables: str) -> Container:
    """Run as Docker does with --read-only, --tmpfs /tmp and a volume at /models."""
    return Container(
        Path(image.root),
        user=user or image.User,
        folder=image.WorkingDir,
        environment={**image.Env, **variables},
        mounts={models: "/models"},
        read_only=True,
    )


@dataclass
class Served:
    """The server of an image: the process that entered its root, and its address."""

    popen: subprocess.Popen[str]
    url: str
    ready: str

    def signal(self, number: int) -> None:
        """Send a signal to the process that has the number 1 in there, as Docker does."""
        os.kill(first_process(self.popen), number)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, trust_env=False)


def first_process(entered: subprocess.Popen[str]) -> int:
    """The process that has the number 1 in a root that another process has entered."""
    with open(f"/proc/{entered.pid}/task/{entered.pid}/children") as children:
        [child] = children.read().split()
    return int(child)


@contextmanager
def served(inside: Container, image: Image, *options: str) -> Iterator[Served]:
    """Run the image's own command, on any free port."""
    program = [*image.Entrypoint, *image.Cmd, "--port", "0", *options]
    popen = subprocess.Popen(inside.command(program), stdout=subprocess.PIPE, text=True)
    assert popen.stdout is not None
    try:
        url = popen.stdout.readline().strip().removeprefix("listening on ")
        url = url.replace("0.0.0.0", "127.0.0.1")
        yield Served(popen, url, popen.stdout.readline().strip())
    finally:
        with popen:  # which waits
            if popen.poll() is None:
                os.kill(first_process(popen), signal.SIGTERM)


def shell(inside: Container, *program: str) -> tuple[int, str]:
    done = subprocess.run(inside.command(program), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def health(inside: Container, image: Image, url: str) -> int:
    """The exit code of the image's health check, asked of a server at an address."""
    port = url.rpartition(":")[2]
    there = replace(inside, environment={**inside.environment, "TORCHSHIP_SERVE_PORT": port})
    return shell(there, *image.Healthcheck)[0]


def test_the_server_proves_every_model_and_drains(images: dict[str, Image], archives: Path) -> None:
    image = images["server"]
    inside = container(image, archives)
    with served(inside, image, "--drain-seconds", "600") as server:
        names = server.ready.removeprefix("ready: ").split(", ")
        assert sorted(names) == sorted(f"{name}/1" for name in registry.names())
        assert health(inside, image, server.url) == 0
        status = Path(f"/proc/{first_process(server.popen)}/status").read_text()
        assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
        assert "\nCapEff:\t0000000000000000\n" in status
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 10], "data": [0] * 10}]}
        infer = f"{server.url}/v2/models/fizzbuzz/infer"
        assert httpx.post(infer, json=body, trust_env=False).status_code == 200

        server.signal(getattr(signal, image.StopSignal))
        while server.get("/v2/health/ready").status_code == 200:
            pass
        assert health(inside, image, server.url) == 1
        assert httpx.post(infer, json=body, trust_env=False).status_code == 200
        server.signal(signal.SIGTERM)  # which ends the drain
        assert server.popen.wait(60) == 0


def test_any_other_user_can_run_it(images: dict[str, Image], archives: Path) -> None:
    image = images["server"]
    inside = container(image, archives, STRANGER)
    with served(inside, replace(image, Cmd=["serve", "/models/fizzbuzz.pt"])) as server:
        assert server.ready == "ready: fizzbuzz/1"


def test_the_runner_proves_every_model(images: dict[str, Image], archives: Path) -> None:
    image = images["runner"]
    inside = container(image, archives)
    for name in registry.names():
        said = inside.run(*image.Entrypoint, "verify", f"/models/{name}.pt")
        assert f"{name} 1: agreed, " in said.splitlines()[-1], said
    assert "verify" in inside.run(*image.Entrypoint, *image.Cmd)


@pytest.mark.parametrize("name", MEGABYTES)
def test_nothing_is_in_an_image_that_only_its_build_needs(
    images: dict[str, Image], name: str
) -> None:
    root = Path(images[name].root)
    assert sum(images[name].layers.values()) < MEGABYTES[name] * 1e6
    files = [str(path.relative_to(root)) for path in root.rglob("*")]
    programs = {Path(file).name for file in files if "/bin/" in f"/{file}"}
    assert not programs & {"gcc", "cc", "g++", "ld", "make", "cmake", "ninja", "pip", "pip3"}
    for ending in (".a", ".deb", ".whl", ".pyi", ".pyx"):
        assert not [file for file in files if file.endswith(ending)]
    kept = ("var/lib/apt/lists/", "root/.cache", "tmp/", "wheels")
    assert not [file for file in files if file.startswith(kept)]
    if name == "runner":
        assert not [file for file in files if "bin/python" in file or "libpython" in file]


def test_the_server_starts_from_bytecode(images: dict[str, Image], archives: Path) -> None:
    """A read-only root cannot keep it: it would be compiled anew at every start."""
    image = images["server"]
    code = (
        "import sys, torchship.serve.process.worker\n"
        "print(*(m.__file__ for m in sys.modules.values()"
        " if getattr(m, '__cached__', None) and m.__file__.startswith('/opt')"
        " and not __import__('os').path.exists(m.__cached__)), sep='\\n')"
    )
    assert container(image, archives).run("python", "-c", code).split() == []


def test_a_step_that_fails_fails_the_build(tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM debian:12-slim\nRUN echo why >&2 && false\n")
    done = subprocess.run(
        [sys.executable, build_image.__file__, tmp_path / "image", "--file", dockerfile],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("failed:\nwhy\n")
    assert "Traceback" not in done.stderr
