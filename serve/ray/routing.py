"""Which replica a request goes to, if no replica holds all models: the name in it decides.

Ray's own multiplexing needs a header that no client of the protocol sends. Here every proxy ranks
the replicas by a hash of the model's name and the replica's: all proxies agree without asking
anyone, a model stays where it is when other replicas come and go, and each replica has its share.
"""

from __future__ import annotations

import io
import logging
import pickle
from hashlib import blake2b

from ray.serve._private.common import StreamingHTTPRequest, gRPCRequest
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from torchship.serve.ray.grpc_proxy import model_of_message

log = logging.getLogger(__name__)


class ModelRouter(RequestRouter):
    """Sends the requests of a model to the same replica while it is not busy, then to the next."""

    def initialize_state(self, busy_requests: int = 16) -> None:  # type: ignore[override]
        """Take the number of requests from which on a replica is busy."""
        self._busy_requests = busy_requests

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return the replicas in the order in which they are tried, one by one."""
        name = None
        if pending_request is not None:
            name = model_of(pending_request.args, pending_request.metadata.call_method)
        if name is None:
            return [sorted(candidate_replicas, key=self._length)]
        ranked = sorted(candidate_replicas, key=lambda replica: _rank(name, replica))
        free = [replica for replica in ranked if self._length(replica) < self._busy_requests]
        return [[replica] for replica in free] or [[r] for r in sorted(ranked, key=self._length)]

    def _length(self, replica: RunningReplica) -> int:
        """Return how many requests a replica had when it last said so."""
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def _rank(name: str, replica: RunningReplica) -> bytes:
    return blake2b(f"{name}\n{replica.replica_id.unique_id}".encode(), digest_size=8).digest()


def model_of(arguments: list[object], method: str) -> str | None:
    """Return the model that a request names; None if it names none, or is in another form.

    The proxy has just pickled the request for the replica, and this runs in the proxy. The reader
    knows the two classes of Ray that it may make, so that nothing else can come of those bytes.
    """
    if not arguments or not isinstance(arguments[0], bytes):
        return None
    try:
        request = _Envelope(io.BytesIO(arguments[0])).load()
    except Exception:
        log.debug("the form of a request is not known", exc_info=True)
        return None
    if isinstance(request, gRPCRequest) and isinstance(request.user_request_proto, bytes):
        return model_of_message(method, request.user_request_proto)
    if not isinstance(request, StreamingHTTPRequest):
        return None
    scope = request.asgi_scope
    path: str = scope.get("path", "")
    return model_of_path(path.removeprefix(scope.get("root_path", "").rstrip("/")))


def model_of_path(path: str) -> str | None:
    """Return the model that a path below the application's names."""
    match path.split("/"):
        case ["", "v2", "models", name, *_] if name and name != "stats":
            return name
    return None


class _Envelope(pickle.Unpickler):
    """Reads Ray's envelope of a request: text, numbers, and the two classes of envelopes."""

    def find_class(self, module: str, name: str) -> object:
        for kind in (StreamingHTTPRequest, gRPCRequest):
            if (module, name) == (kind.__module__, kind.__name__):
                return kind
        raise pickle.UnpicklingError(f"{module}.{name} is not expected in a request")
