"""A real Ray cluster of several nodes on this machine, in processes of its own.

Run as a program it is the cluster: it prints its address, does what the lines of its standard input
say, and ends all nodes when that is closed. pytest's process knows nothing of Ray.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_AUTH_MODE": "disabled",  # whether or not this user has a token of another cluster
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # everything listens on 127.0.0.1 only
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.2",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.2",
    "RAY_SERVE_MIN_HANDLE_METRICS_TIMEOUT_S": "1",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # for a proxy on a busy machine
    "PYTHONWARNINGS": "ignore",
}
WAIT_SECONDS = 90
NODES = 2  # beside the head, on which no replica runs


class RayCluster:
    """The cluster as tests see it."""

    def __init__(self, process: subprocess.Popen[str], environment: dict[str, str]) -> None:
        self._process = process
        self._environment = environment
        self.address = str(self._answer()["address"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the cluster has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def do(self, command: str) -> dict[str, Any]:
        """Have the cluster do something: `kill`, `add`, or `status NAME`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._answer()

    def replicas(self, name: str) -> dict[str, str]:
        """Return the nodes of the replicas that run, by the replicas' ids."""
        return dict(self.do(f"status {name}")["replicas"])

    def wait(self, name: str, enough: Callable[[dict[str, str]], bool]) -> None:
        """Wait until the replicas that run are enough."""
        until = time.monotonic() + WAIT_SECONDS
        while not enough(found := self.replicas(name)):
            assert time.monotonic() < until, found
            time.sleep(0.1)  # Ray has no event for it

    def serve_run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run Ray's own `serve run`."""
        command = "from ray.serve.scripts import cli; cli()"
        options = [*("run", "--non-blocking", "--address", self.address), *map(str, arguments)]
        return subprocess.run(
            [sys.executable, "-c", command, *options],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def deploy(
        self, *arguments: object, name: str = "torchship"
    ) -> subprocess.CompletedProcess[str]:
        """Run `torchship ray deploy`."""
        command = [*(sys.executable, "-m", "torchship", "ray", "deploy", "--name", name)]
        return subprocess.run(
            [*command, "--address", self.address, *map(str, arguments)],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


@contextmanager
def running_cluster(nodes: int = NODES, **settings: str) -> Iterator[RayCluster]:
    """Run a cluster for the length of a `with` block; its processes are gone after it.

    `settings` are added to the environment of its processes.
    """
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        # Where Ray notes the address of the last cluster that was started: not this user's note.
        environment = {**os.environ, **ENVIRONMENT, "RAY_TMPDIR": folder, **settings}
        (Path(folder) / "ray").mkdir()
        with (
            (Path(folder) / "errors").open("w+") as errors,
            subprocess.Popen(
                [sys.executable, __file__, folder, str(nodes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            ) as process,
        ):
            try:
                yield RayCluster(process, environment)
            finally:
                assert process.stdin is not None
                process.stdin.close()
                code = process.wait(60)
                errors.seek(0)
                assert code == 0, errors.read()
        assert left_in(folder) == []


def left_in(folder: str) -> list[str]:
    """Return the command lines of the processes that have the cluster's folder in theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended
            continue
        if folder in line:
            found.append(line)
    return found


def main(folder: str, count: int) -> None:
    """Be the cluster."""
    ray, serve, utils = map(import_module, ("ray", "ray.serve", "ray.cluster_utils"))

    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder}
    cluster = utils.Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=2) for _ in range(count)]
    ray.init(address=cluster.address, log_to_driver=False)

    def answer(**content: object) -> None:
        print(json.dumps(content), file=say, flush=True)

    answer(address=cluster.address)
    for line in sys.stdin:
        command, _, rest = line.strip().partition(" ")
        if command == "kill":
            node = next(n for n in nodes if n.node_id == rest)
            nodes.remove(node)
            cluster.remove_node(node, allow_graceful=False)
            answer()
        elif command == "add":
            nodes.append(cluster.add_node(num_cpus=2))
            answer(node=nodes[-1].node_id)
        elif command == "status":
            client: Any = serve.context._get_global_client()
            details = client.get_serve_details()
            application = details["applications"].get(rest, {})
            deployments = application.get("deployments", {})
            replicas = [r for d in deployments.values() for r in d["replicas"]]
            running = {r["replica_id"]: r["node_id"] for r in replicas if r["state"] == "RUNNING"}
            answer(replicas=running, status=application.get("status"))
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
