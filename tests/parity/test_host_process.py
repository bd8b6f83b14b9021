"""What the process around the library has or lacks: memory, threads, another BLAS."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

import c_abi
import host_zoo
from c_abi import BAD_USAGE, Failure, Options, Session
from torchship.cpp_runner.binary import runner_path
from torchship.script.errors import OutOfMemoryError, UsageError
from torchship.script.exporting.export import export
from torchship.script.runtime import torchscript
from torchship.script.runtime.archive import open_archive
from torchship.serve.client.local_server import running_server

OUT_OF_MEMORY = 5
TOO_MUCH = 1 << 60  # bytes; float32 has this number
GIBIBYTE = 1 << 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("archives")
    export(host_zoo.allocating_target(), made / "allocating.pt")
    export(host_zoo.allocating_target(8.0 * GIBIBYTE), made / "greedy.pt")
    export(host_zoo.wide_target(), made / "wide.pt")
    return made


def address_space(limit: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def runner(
    *arguments: object,
    stdin: str = "",
    limit: int = resource.RLIM_INFINITY,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(runner_path()), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=address_space(limit),
        env=os.environ | (environment or {}),
    )


# ---- Memory --------------------------------------------------------------------------------------


def test_no_memory_is_neither_bad_input_nor_a_mismatch_in_the_runner(folder: Path) -> None:
    line = json.dumps({"x": [[TOO_MUCH]]})
    done = runner("run", folder / "allocating.pt", "--input", "-", "--json", stdin=line)
    assert done.returncode == OUT_OF_MEMORY
    assert json.loads(done.stdout) == {
        "error": f"model 'allocating' method 'forward' ran out of memory: it asked for {TOO_MUCH} "
        "bytes",
        "code": "out_of_memory",
    }
    done = runner("verify", folder / "greedy.pt", limit=6 * GIBIBYTE)
    assert done.returncode == OUT_OF_MEMORY, done.stdout + done.stderr
    assert "MISMATCH" not in done.stdout
    assert runner("verify", folder / "greedy.pt").returncode == 0


def test_no_memory_to_open_an_archive_says_nothing_of_the_archive(folder: Path) -> None:
    path = folder / "large.pt"
    export(host_zoo.large_target(), path)
    # From what the process itself needs on: below that no program of LibTorch starts.
    limits = range(GIBIBYTE // 4, 4 * GIBIBYTE, GIBIBYTE // 64)
    enough = next(n for n in limits if runner("inspect", folder / "wide.pt", limit=n).stdout)
    seen = set()
    for limit in range(enough, enough + GIBIBYTE // 4, GIBIBYTE // 64):
        seen.add(runner("inspect", path, limit=limit).returncode)
    assert seen == {0, OUT_OF_MEMORY}


def test_the_c_abi_has_a_status_for_it(folder: Path) -> None:
    session = Session(c_abi.Archive(folder / "allocating.pt"))
    with pytest.raises(Failure) as failure:
        session.run({"x": np.full((1, 1), TOO_MUCH, np.float32)})
    assert failure.value.status == OUT_OF_MEMORY
    assert failure.value.message.startswith("model 'allocating' method 'forward' ran out of memory")
    assert session.run({"x": np.ones((1, 1), np.float32)})["output"].tolist() == [[2]]


def test_python_has_an_error_for_it(folder: Path) -> None:
    program = open_archive(folder / "allocating.pt").program()
    with pytest.raises(OutOfMemoryError, match=f"it asked for {TOO_MUCH} bytes"):
        program.call("forward", {"x": torch.full((1, 1), float(TOO_MUCH))})
    assert OutOfMemoryError.exit_code == OUT_OF_MEMORY


@pytest.mark.parametrize("runtime", ["script", "cpp"])
def test_verify_without_memory_is_no_mismatch(runtime: str, folder: Path) -> None:
    command = [sys.executable, "-m", "torchship", "verify", str(folder / "greedy.pt")]
    done = subprocess.run(
        [*command, "--runtime", runtime],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=address_space(7 * GIBIBYTE),
    )
    assert done.returncode == OUT_OF_MEMORY, done.stdout + done.stderr
    assert "ran out of memory" in done.stderr


def test_the_server_answers_that_it_may_go_well_later(folder: Path) -> None:
    with running_server([folder / "allocating.pt"]) as url:

        def post(value: float) -> httpx.Response:
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [[value]]}
            return httpx.post(f"{url}/v2/models/allocating/infer", json={"inputs": [tensor]})

        refused = post(TOO_MUCH)
        assert refused.status_code == 503
        assert "ran out of memory" in refused.json()["error"]
        assert post(1).json()["outputs"][0]["data"] == [2]


# ---- Threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, -1, 1025, 100_000])
def test_a_number_of_threads_that_openmp_would_die_of_is_refused(
    threads: int, folder: Path
) -> None:
    with pytest.raises(Failure, match=f"threads: expected 1 to 1024, got {threads}") as failure:
        c_abi.Archive(folder / "wide.pt", Options(threads=threads))
    assert failure.value.status == BAD_USAGE
    with pytest.raises(UsageError, match="expected 1 to 1024"):
        torchscript.configure(threads)


EARLIER = """
import sys, threading
sys.path[:0] = {path!r}
from pathlib import Path
import numpy as np, torch
import c_abi

asked, ready, seen = threading.Event(), threading.Event(), []

def works():
    torch.zeros(1 << 20).add_(1)  # with as many threads as there are cores
    ready.set()
    asked.wait()
    session.run({{"x": np.ones((2, 512), np.float32)}})
    seen.append(torch.get_num_threads())

torch.set_num_threads(4)
thread = threading.Thread(target=works)
thread.start()
ready.wait()
session = c_abi.Session(c_abi.Archive(Path(sys.argv[1]), c_abi.Options(threads=3)))
asked.set()
thread.join()
print(*seen)
"""

FORKED = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
import numpy as np
import c_abi

x = np.ones((257, 512), np.float32)
archive = c_abi.Archive(Path(sys.argv[1]), c_abi.Options(threads=int(sys.argv[2])))
session = c_abi.Session(archive)
session.run({{"x": x}})
sys.stdout.flush()
if os.fork() == 0:
    try:
        session.run({{"x": x}})
        print("ran", flush=True)
    except c_abi.Failure as failure:
        print(failure, flush=True)
    os._exit(0)
os.wait()
"""


def in_python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code.format(path=sys.path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_threads_reach_a_thread_that_has_used_libtorch_before(folder: Path) -> None:
    assert in_python(EARLIER, folder / "wide.pt") == "3"


def test_a_forked_process_runs_or_says_why_not(folder: Path) -> None:
    assert in_python(FORKED, folder / "wide.pt", 1) == "ran"
    said = in_python(FORKED, folder / "wide.pt", 2)
    assert said.startswith("2: this process was forked after a call with 2 threads")


# ---- Another BLAS --------------------------------------------------------------------------------

BLAS = """
/* A BLAS of another's, which rounds each term of a sum to 12 bits. */
static float cut(float x) {
  union { float f; unsigned u; } bits = {x};
  bits.u &= 0xFFFFF000u;
  return bits.f;
}

void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k,
            const float *alpha, const float *a, const int *lda, const float *b, const int *ldb,
            const float *beta, float *c, const int *ldc) {
  for (int j = 0; j < *n; ++j) {
    for (int i = 0; i < *m; ++i) {
      float sum = 0;
      for (int l = 0; l < *k; ++l) {
        float x = *ta == 'n' || *ta == 'N' ? a[i + l * *lda] : a[l + i * *lda];
        float y = *tb == 'n' || *tb == 'N' ? b[l + j * *ldb] : b[j + l * *ldb];
        sum += cut(x * y);
      }
      float *to = c + i + (long)j * *ldc;
      *to = *alpha * sum + (*beta == 0 ? 0 : *beta * *to);
    }
  }
}
"""


@pytest.fixture(scope="module")
def blas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("blas")
    (made / "blas.c").write_text(BLAS)
    library = made / "libotherblas.so"
    command = ["cc", "-O1", "-shared", "-fPIC", str(made / "blas.c"), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def test_another_blas_is_named(folder: Path, blas: Path) -> None:
    preloaded = {"LD_PRELOAD": str(blas)}
    done = runner("verify", folder / "wide.pt", "--json", environment=preloaded)
    verdict = json.loads(done.stdout)
    assert verdict["note"].startswith(f"matrix products are computed by '{blas}'")
    done = runner("verify", folder / "wide.pt", environment=preloaded)
    assert f"computed by '{blas}'" in done.stdout
    assert json.loads(runner("verify", folder / "wide.pt", "--json").stdout)["note"] == ""
    command = [sys.executable, "-m", "torchship", "verify", str(folder / "wide.pt")]
    both = ("--runtime", "script", "--runtime", "cpp", "--json")
    done = subprocess.run(
        [*command, *both], capture_output=True, text=True, check=False, env=os.environ | preloaded
    )
    assert f"computed by '{blas}'" in json.loads(done.stdout)["note"]


def test_the_c_abi_names_it_in_a_mismatch(folder: Path, blas: Path) -> None:
    code = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
import c_abi
try:
    c_abi.Archive(Path(sys.argv[1])).verify()
    print("agreed")
except c_abi.Failure as failure:
    print(failure)
"""
    command = [sys.executable, "-c", code.format(path=sys.path), str(folder / "dense.pt")]
    export(host_zoo.dense_target(), folder / "dense.pt")
    environment = os.environ | {"LD_PRELOAD": str(blas)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("1: golden case")
    assert f"matrix products are computed by '{blas}'" in done.stdout
