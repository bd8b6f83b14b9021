"""The same run in one process and on a real Ray cluster of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from served import make
from torchship.score.command import Options, score_archive
from torchship.score.model import Runtime
from torchship.script.runtime.archive import open_archive

RUNTIMES: tuple[Runtime, ...] = ("native", "script")

# Two runs on one cluster of two cores, in a process of its own: Ray's threads outlive a test.
SCORE = """
import ray, sys
from torchship.__main__ import main

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
archive, data, folder = sys.argv[1:]
for runtime in ("native", "script"):
    sys.argv = ["", "score", archive, "--input", data, "--output", f"{folder}/{runtime}"]
    sys.argv += ["--runtime", runtime, "--batch-rows", "4", "--ray"]
    sys.argv += ["--ray-workers", "2" if runtime == "native" else "1"]
    try:
        main()
    except SystemExit as end:
        print(end.code, file=sys.stderr)
"""


def test_a_cluster_gives_the_same(tmp_path: Path) -> None:
    path = make(tmp_path, "memory", file="memory.pt")
    random = np.random.default_rng(0)
    x = random.normal(size=(3000, 2)).astype(np.float32).tolist()
    x[5] = x[2999] = None
    data = tmp_path / "data"
    data.mkdir()
    pq.write_table(pa.table({"x": x}), data / "a.parquet", row_group_size=700)
    (data / "b.csv").write_text(
        "x.0,x.1\n" + "1\n" + "".join(f"{a},{b}\n" for a, b in random.normal(size=(600, 2)))
    )
    np.savez(data / "c.npz", x=random.normal(size=(1, 2)))
    (data / "d.csv").write_text("")
    there = tmp_path / "there"
    done = subprocess.run(
        [sys.executable, "-c", SCORE, str(path), str(data), str(there)],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
    )  # fmt: skip
    assert done.stderr.splitlines()[-1:] == ["4"], done.stderr
    assert "Traceback" not in done.stderr
    for runtime in RUNTIMES:
        options = Options(
            inputs=[str(data)], output=tmp_path / runtime, runtime=runtime, batch_rows=4
        )
        here = score_archive(open_archive(path), options)
        assert (here.scored, here.bad) == (3599, 3)
        for name in ("a.parquet", "b.parquet", "c.parquet"):
            found = pq.read_table(there / runtime / name)
            expected = pq.read_table(tmp_path / runtime / name)
            assert found.schema.equals(expected.schema, check_metadata=True)
            assert found.column("row").equals(expected.column("row"))
            for output in ("y", "h"):
                a, b = (np.stack(table.column(output).to_pylist()) for table in (found, expected))
                assert np.allclose(a, b, rtol=1e-6, atol=1e-7)
            if runtime == "native":
                same = (there / runtime / name).read_bytes()
                assert same == (tmp_path / runtime / name).read_bytes()
        for name in ("_bad/a.jsonl", "_bad/b.jsonl"):
            told = (there / runtime / name).read_text()
            assert told == (tmp_path / runtime / name).read_text()
        assert not list(there.glob("*/.torchship/*/*.arrow"))
        # It is one kind of run: what a cluster has begun, one process completes.
        (there / runtime / "a.parquet").unlink()
        again = score_archive(open_archive(path), replace(options, output=there / runtime))
        assert again.to_json()["scored"] == here.scored
        assert [Path(name).name for name in again.failed] == ["d.csv"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "there is no Ray cluster at '127.0.0.1:1'"),
        ("nowhere", "expected HOST:PORT, auto or local"),
    ],
)
def test_a_cluster_that_is_not_there(address: str, message: str, tmp_path: Path) -> None:
    make(tmp_path, "memory", file="memory.pt")
    pq.write_table(pa.table({"x": [[1.0, 2.0]]}), tmp_path / "in.parquet")
    done = subprocess.run(
        [sys.executable, "-m", "torchship", "score", "memory.pt", "--input", "in.parquet",
         "--output", "out", "--ray-address", address],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
