"""A cluster on which Ray ends proxies before they are up, as it does where nodes are busy."""

from __future__ import annotations

from pathlib import Path

import httpx

from ray_cluster import running_cluster
from served import make

# Three times that is less than a proxy needs for its imports; each next one is given as much again.
TOO_FEW_SECONDS = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "0.05"}


def test_a_deploy_ends_when_a_proxy_answers(tmp_path: Path, free_port: int) -> None:
    model = make(tmp_path, "tiny")
    with running_cluster(nodes=1, **TOO_FEW_SECONDS) as cluster:
        done = cluster.deploy(model, "--port", free_port, "--num-cpus", 0.5)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"url: http://127.0.0.1:{free_port}/\n")
        url = f"http://127.0.0.1:{free_port}/v2/models/tiny/ready"
        assert httpx.get(url, trust_env=False, timeout=60).status_code == 200
