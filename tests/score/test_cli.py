"""`torchship score` as a process: exit codes, what it prints, a kill in the middle of a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from served import make

COMMAND = [sys.executable, "-m", "torchship", "score"]
TEXTS = 300  # rows: three parts of 64 calls of 2 rows, if a call has 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    make(path, "memory", file="memory.pt")
    make(path, "talkative", file="talkative.pt")
    pq.write_table(pa.table({"x": [[1.0, 2.0], None]}), path / "in.parquet")
    texts = [f"row {number}" for number in range(TEXTS)]
    texts[200] = "slowly"
    pq.write_table(pa.table({"text": texts}), path / "texts.parquet")
    return path


@pytest.fixture
def run(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False,
            timeout=120,
        )  # fmt: skip

    return ran


def test_a_report_and_its_exit_codes(
    run: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    done = run("memory.pt", "--input", "in.parquet", "--output", "out", "--json")
    assert done.returncode == 4, done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == "memory"
    assert (report["scored"], report["bad"], report["failed"]) == (1, 1, [])
    assert report["files"][0]["output"] == "out/in.parquet"
    again = run("memory.pt", "--input", "in.parquet", "--output", "out", "--map", "x=y")
    assert again.returncode == 2
    assert "a run with another map: start over with --restart" in again.stderr
    assert len(again.stderr.splitlines()) == 1
    (folder / "bad.csv").write_text("")
    (folder / "good.csv").write_text("x.0,x.1\n1,2\n")
    mixed = run("memory.pt", "--input", "*.csv", "--output", "mixed", "--keep-all")
    assert mixed.returncode == 4
    assert "not scored: 'bad.csv' is empty: expected a line with column names" in mixed.stderr
    assert mixed.stdout.startswith("mixed: 1 rows of 1 files scored by memory 1 in ")
    assert mixed.stdout.endswith(", 1 files not scored\n")


def test_a_run_that_was_killed_goes_on_and_gives_the_same_bytes(
    run: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    given = ["talkative.pt", "--input", "texts.parquet", "--batch-rows", "2", "--keep-all"]
    with subprocess.Popen(
        [*COMMAND, *given, "--output", "killed"], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        seen = next((line for line in process.stderr if "slowly" in line), "")
        process.send_signal(signal.SIGSTOP)  # in row 200, of the second part
        # A second run is refused while the first is there.
        second = run(*given, "--output", "killed")
        assert (second.returncode, "another run writes to 'killed'" in second.stderr) == (2, True)
        process.kill()
    assert seen
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in folder.glob("killed/.torchship/*/*.arrow")] == ["00000000.arrow"]
    assert not (folder / "killed" / "texts.parquet").exists()
    resumed = run(*given, "--output", "killed")
    assert (resumed.returncode, resumed.stdout[:24]) == (0, "killed: 300 rows of 1 fi")
    assert "row 127" not in resumed.stderr  # which the first part has
    assert "row 128" in resumed.stderr
    whole = run(*given, "--output", "whole")
    assert whole.returncode == 0
    assert (folder / "killed/texts.parquet").read_bytes() == (
        folder / "whole/texts.parquet"
    ).read_bytes()
    assert not list(folder.glob("killed/.torchship/*/*.arrow"))


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "score"), ("ray", "ray")])
def test_packages_that_are_missing_are_named(package: str, extra: str, folder: Path) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from torchship.__main__ import main\n"
        "sys.argv = ['torchship', 'score', 'memory.pt', '--input', 'in.parquet', "
        f"'--output', 'missing-{package}', '--ray']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"needs the package {package}, which is not installed" in done.stderr
    assert f"pip install 'torchship[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_ends_a_run_in_one_line(
    run: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    """A limit on the size of files stands for the disk: what is written is refused midway."""
    x = np.zeros((20_000, 2), dtype=np.float32)
    np.savez(folder / "many.npz", x=x + np.arange(20_000, dtype=np.float32)[:, None])
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from torchship.__main__ import main\n"
        "sys.argv = ['', 'score', 'memory.pt', '--input', 'many.npz', '--output', 'full']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "error: cannot write 'full/" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("full/*.parquet"))
    again = run("memory.pt", "--input", "many.npz", "--output", "full")
    assert again.returncode == 0, again.stderr
    assert sorted(os.listdir(folder / "full")) == [".torchship", "many.parquet"]
