"""`torchship ray deploy`: from archives to an application that runs, or to what ran before."""

from __future__ import annotations

import logging
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ProxyStatus

from torchship.script.errors import ArchiveError, UsageError
from torchship.serve.ray.arguments import Arguments, read_arguments
from torchship.serve.ray.blueprint import Blueprint
from torchship.serve.ray.deployment import application
from torchship.serve.ray.packing import pack
from torchship.serve.ray.records import Deployed, read_deployed, used, write_deployed
from torchship.serve.ray.replica import MARK
from torchship.serve.ray.shipping import keep_only

LOOK_SECONDS = 0.2
CONNECT_SECONDS = 5
RESTORE_SECONDS = 60  # for what ran before; its replicas run still, or have room
GRPC_SERVICE = "torchship.serve.ray.grpc_proxy.add_to_proxy"
PREFIX = re.compile(r"/|(/[A-Za-z0-9._~-]+)+")
LONGEST_REASON = 2000  # characters of what Ray says
REFUSED = re.compile(rf"{re.escape(MARK)} (.*)")


class RefusedError(ArchiveError):
    """An archive that a replica refused."""


@dataclass(frozen=True)
class Place:
    """Where an application is deployed; what is None is Ray's default, or as it is already."""

    name: str
    address: str
    route_prefix: str
    host: str | None
    port: int | None
    grpc_port: int | None
    every_node: bool
    seconds: float
    """For which the application may take to run."""


@dataclass(frozen=True)
class Result:
    """What became of a deploy."""

    application: str
    models: tuple[str, ...]
    replicas: int
    url: str


def deploy(given: Mapping[str, object], place: Place) -> Result:
    """Deploy archives as an application, and return when each first replica has proved them.

    Raises:
        UsageError: an argument is wrong, there is no cluster, or it has no room for the replicas.
        ArchiveError: an archive failed. What ran before goes on.
    """
    arguments, settings = read_arguments(given)
    if not PREFIX.fullmatch(place.route_prefix):
        raise UsageError(
            f"--route-prefix: expected / or a path such as /models, got '{place.route_prefix}'"
        )
    _connect(place.address)
    try:
        url = _start(place)
        before = _status(place.name)
        earlier = None if before is None else read_deployed(place.name)
        deployed = _version(arguments, pack(arguments, settings), earlier, before)
        try:
            _run(deployed, place)
            _wait_for_proxies(place.seconds)
        except (UsageError, ArchiveError):
            _restore(place, before, earlier)
            raise
        write_deployed(place.name, deployed)
        keep_only(used(set(serve.status().applications)))
        status = _status(place.name)
        running = 0 if status is None else _running(status)
        prefix = place.route_prefix.rstrip("/")
        return Result(place.name, deployed.blueprint.names, running, f"{url}{prefix}/")
    except (RayError, RayServeException) as error:
        raise UsageError(f"the cluster at '{place.address}' failed: {_short(str(error))}") from None
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    _check_reachable(address)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"there is no Ray cluster at '{address}': start one with `ray start --head`, or give "
            f"its address with --address; one that wants a token needs RAY_AUTH_MODE=token here: "
            f"{_short(str(error))}"
        ) from None


def _check_reachable(address: str) -> None:
    """Refuse an address at which nobody listens; Ray itself would try for a minute.

    Raises:
        UsageError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"there is no Ray cluster at '{address}' ({error}): start one with `ray start --head`, "
            "or give its address with --address"
        ) from None


def _start(place: Place) -> str:
    """Start Ray Serve if it does not run yet, and return the address of its HTTP proxies."""
    if serve.status().proxies:
        if (place.host, place.port, place.grpc_port) != (None, None, None):
            raise UsageError(
                "Ray Serve runs on this cluster already, and its ports stay as they are: leave "
                "--host, --port and --grpc-port out, or end it first with `serve shutdown`"
            )
        return _url()
    options: dict[str, Any] = {"host": place.host or "127.0.0.1", "port": place.port or 8000}
    # Ray ends a proxy that is not up after some seconds, as on a busy node, and starts another with
    # more time, which `_wait_for_proxies` waits for.
    with _explained(), suppress(RayActorError):
        serve.start(
            proxy_location="EveryNode" if place.every_node else "HeadOnly",
            http_options=options,
            grpc_options=None if place.grpc_port is None else _grpc_options(place.grpc_port),
        )
    return _url()


def _wait_for_proxies(seconds: float) -> None:
    """Wait until the proxies of Ray Serve take requests, but those that are about to end.

    Raises:
        UsageError: they do not in time.
    """
    ending = (ProxyStatus.DRAINING, ProxyStatus.DRAINED)
    until = time.monotonic() + seconds
    while True:
        found = [status for status in serve.status().proxies.values() if status not in ending]
        if found and all(status == ProxyStatus.HEALTHY for status in found):
            return
        if time.monotonic() > until:
            states = ", ".join(sorted(found)) or "there is none"
            raise UsageError(
                f"Ray Serve's proxies are not up after {seconds:g} s (--timeout): {states}; their "
                "logs are in the folder `serve` of the logs of this Ray session"
            )
        time.sleep(LOOK_SECONDS)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what Ray says of a wrong option, or of a port in use, into one message.

    Raises:
        UsageError: it says so.
    """
    try:
        yield
    except (RuntimeError, ValueError, TimeoutError) as error:
        raise UsageError(f"Ray Serve refused this: {_short(str(error))}") from None


def _grpc_options(port: int) -> dict[str, Any]:
    return {"port": port, "grpc_servicer_functions": [GRPC_SERVICE]}


def _url() -> str:
    client: Any = serve.context._get_global_client()
    options = client.http_config
    host = "127.0.0.1" if options.host == "0.0.0.0" else options.host
    return f"http://{host}:{options.port}"


def _status(name: str) -> ApplicationStatusOverview | None:
    return serve.status().applications.get(name)


def _running(status: ApplicationStatusOverview) -> int:
    return sum(
        count
        for deployment in status.deployments.values()
        for state, count in deployment.replica_states.items()
        if state == "RUNNING"
    )


def _run(deployed: Deployed, place: Place) -> None:
    """Run an application; return when Ray says that it runs.

    Raises:
        ArchiveError: a replica refused its archives.
        UsageError: it does not run in time, or Ray cannot start it.
    """
    target = application(deployed.arguments, deployed.blueprint, deployed.version)
    with _explained():
        serve.run_many(
            [serve.RunTarget(target, place.name, place.route_prefix)],
            wait_for_applications_running=False,
        )
    until = time.monotonic() + place.seconds
    said = ""
    while time.monotonic() < until:
        status = _status(place.name)
        if status is not None:
            said = " ".join([status.message, *(d.message for d in status.deployments.values())])
            if status.status == ApplicationStatus.RUNNING:
                return
            refused = REFUSED.search(said)
            if refused is not None:
                raise RefusedError(refused[1].strip())
            if status.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise UsageError(f"application '{place.name}' does not run: {_short(said)}")
        time.sleep(LOOK_SECONDS)
    raise UsageError(
        f"application '{place.name}' does not run after {place.seconds:g} s (--timeout): "
        f"{_short(said) or 'Ray says nothing'}; `ray status` shows what the cluster has"
    )


def _version(
    arguments: Arguments,
    blueprint: Blueprint,
    earlier: Deployed | None,
    before: ApplicationStatusOverview | None,
) -> Deployed:
    """Return what to deploy: under the version that runs, if that is the same and is well."""
    well = before is not None and before.status == ApplicationStatus.RUNNING
    if (
        earlier is not None
        and well
        and (earlier.arguments, earlier.blueprint) == (*(arguments, blueprint),)
    ):
        return earlier
    return Deployed(arguments=arguments, blueprint=blueprint, version=uuid.uuid4().hex)


def _restore(
    place: Place, before: ApplicationStatusOverview | None, earlier: Deployed | None
) -> None:
    """Take the failed application back: to what ran before, or to none.

    What ran before has its version again, so that its replicas go on as they are.
    """
    with suppress(UsageError, ArchiveError):
        if before is None:
            serve.delete(place.name)
        elif earlier is not None:
            _run(earlier, replace(place, seconds=RESTORE_SECONDS))


def _short(text: str) -> str:
    return " ".join(text.split())[:LONGEST_REASON]
