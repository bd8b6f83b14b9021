"""The same run in one process and on a real Ray cluster of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from served import make
from torchship.score.command import Options, score_archive
from torchship.script.runtime.archive import open_archive

# A cluster of two cores in a process of its own: Ray's threads outlive a test.
SCORE = """
import ray, sys
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
from torchship.score import cluster
cluster._connect = lambda address: None
from torchship.__main__ import main
sys.argv = ["torchship", "score", *sys.argv[1:]]
main()
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
    options = Options(inputs=[str(data)], output=tmp_path / "here", runtime="native", batch_rows=4)
    here = score_archive(open_archive(path), options)
    done = subprocess.run(
        [sys.executable, "-c", SCORE, str(path), "--input", str(data), "--output",
         str(tmp_path / "there"), "--runtime", "native", "--batch-rows", "4", "--ray", "--json"],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    report = json.loads(done.stdout)
    assert (report["scored"], report["bad"]) == (here.scored, here.bad) == (3599, 3)
    assert [Path(failed["input"]).name for failed in report["failed"]] == ["d.csv"]
    for name in ("a.parquet", "b.parquet", "c.parquet", "_bad/a.jsonl", "_bad/b.jsonl"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert not list(tmp_path.glob("there/.torchship/*/*.arrow"))
    # It is one kind of run: what a cluster has begun, one process completes.
    (tmp_path / "there" / "a.parquet").unlink()
    again = score_archive(open_archive(path), Options(
        inputs=[str(data)], output=tmp_path / "there", runtime="native", batch_rows=4
    ))  # fmt: skip
    assert again.scored == here.scored


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere"])
def test_a_cluster_that_is_not_there(address: str, tmp_path: Path) -> None:
    make(tmp_path, "memory", file="memory.pt")
    pq.write_table(pa.table({"x": [[1.0, 2.0]]}), tmp_path / "in.parquet")
    done = subprocess.run(
        [sys.executable, "-m", "torchship", "score", "memory.pt", "--input", "in.parquet",
         "--output", "out", "--ray-address", address],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "error: there is no Ray cluster" in done.stderr
    assert "Traceback" not in done.stderr
