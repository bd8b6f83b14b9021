"""An S3 over real HTTP: moto's, behind a gate that can fail, wait, or cut answers short."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

BUCKET = "models-bucket"
Environ = dict[str, Any]
Fault = Callable[[Environ], str]


def no_fault(environ: Environ) -> str:
    return ""


@dataclass
class ObjectStore:
    """The S3, and what is wrong with it."""

    client: Any
    environment: dict[str, str]
    fault: Fault = no_fault
    """What a request gets instead of its answer: a status, `hold`, `cut`, or "" for nothing."""
    asked: list[str] = field(default_factory=list)
    """What was asked for since the list was emptied, as `METHOD PATH`."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    held: threading.Event = field(default_factory=threading.Event)
    """Set when a request waits."""
    released: threading.Event = field(default_factory=threading.Event)

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def keys(self) -> list[str]:
        listed = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return [entry["Key"] for entry in listed]

    def clear(self) -> None:
        """Be an empty store without faults."""
        self.heal()
        for key in self.keys():
            self.delete(key)
        self.asked.clear()

    def hold(self, fault: Fault) -> None:
        """Have requests wait; see `fault`."""
        self.held.clear()
        self.released.clear()
        self.fault = fault

    def heal(self) -> None:
        self.fault = no_fault
        self.released.set()

    def listings(self) -> int:
        """Return how often the store was listed since `asked` was emptied."""
        return sum("list-type=2" in line for line in self.asked)

    def wait_for_listings(self, count: int = 3) -> None:
        """Wait until the store was asked `count` times more what it has.

        The first of them may have begun before; after the third, what a server does about what is
        there now has been done once.
        """
        with self.changed:
            before = self.listings()
            assert self.changed.wait_for(lambda: self.listings() >= before + count, 60)

    def downloads(self) -> list[str]:
        """Return what was downloaded since `asked` was emptied."""
        return [line for line in self.asked if line.startswith("GET ") and "?" not in line]


def _gate(application: Any, store: list[ObjectStore]) -> Any:
    def answer(environ: Environ, start_response: Any) -> Iterable[bytes]:
        own = environ.get("HTTP_X_TEST", "") == "1"
        query = environ.get("QUERY_STRING", "")
        line = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}" + (
            f"?{query}" if query else ""
        )
        fault = "" if own else store[0].fault({**environ, "LINE": line})
        if not own:
            with store[0].changed:
                store[0].asked.append(line)
                store[0].changed.notify_all()
        if fault == "hold":
            store[0].held.set()
            store[0].released.wait(60)
            fault = ""
        if fault and fault != "cut":
            start_response(fault, [("Content-Length", "0")])
            return [b""]
        body = application(environ, start_response)
        if fault == "cut":
            return _half(body)
        return body  # type: ignore[no-any-return]

    return answer


def _half(body: Iterable[bytes]) -> Iterator[bytes]:
    whole = b"".join(body)
    yield whole[: len(whole) // 2]


def _mark(request: Any, **_: object) -> None:
    request.headers["X-Test"] = "1"


@contextmanager
def running_s3() -> Iterator[ObjectStore]:
    """Run the store with one bucket on a thread of this process; the gate ignores `client`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto: Any = import_module("moto.server")
    serving: Any = import_module("werkzeug.serving")
    boto3: Any = import_module("boto3")
    config: Any = import_module("botocore.config")
    stores: list[ObjectStore] = []
    application = moto.DomainDispatcherApplication(moto.create_backend_app)
    server = serving.make_server("127.0.0.1", 0, _gate(application, stores), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "the-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id="key",
        aws_secret_access_key="the-secret-key",
        region_name="us-east-1",
        config=config.Config(retries={"max_attempts": 1}),
    )
    client.meta.events.register("before-send.s3", _mark)
    stores.append(ObjectStore(client, environment))
    thread.start()
    try:
        client.create_bucket(Bucket=BUCKET)
        yield stores[0]
    finally:
        stores[0].heal()
        server.shutdown()
        thread.join()
        server.server_close()
        client.close()
