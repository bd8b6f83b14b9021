"""The service of `inference.proto` on the engines of a repository."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Mapping
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from torchship.script.errors import TorchShipError
from torchship.script.format.manifest import Manifest
from torchship.serve.engine.dispatcher import COMPANIONS
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import DeadlineError
from torchship.serve.grpc import inference_pb2 as pb
from torchship.serve.grpc.call import Call, CallContext
from torchship.serve.grpc.calls import Calls, Needs, WhoAsks
from torchship.serve.grpc.concurrency import Concurrency
from torchship.serve.grpc.conversion import (
    parse,
    read_request,
    set_parameter,
    typed_bytes,
    values_of,
    write_answer,
)
from torchship.serve.grpc.ordered import OrderedAnswers
from torchship.serve.protocol.drafts import LARGE_JSON
from torchship.serve.protocol.messages import InferRequest
from torchship.serve.protocol.output_encoding import encode_ranked
from torchship.serve.protocol.tensors import RawTensor
from torchship.serve.protocol.wire_signature import describe_config
from torchship.serve.repository.repository import Repository
from torchship.serve.sequences.sequences import Sequences
from torchship.serve.service import facts
from torchship.serve.service.accounting import RequestAccounting
from torchship.serve.service.api_keys import KeyRing
from torchship.serve.service.inference import InferenceService
from torchship.serve.settings import Settings
from torchship.serve.system.body_memory import BodyMemory
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.telemetry.records import SOURCE, Record

R = TypeVar("R", bound=Message)

STREAM_AHEAD = 32
"""Messages of a stream that are read before their client takes the answer of the first."""

FINAL_WANTED, FINAL = "triton_enable_empty_final_response", "triton_final_response"


class InferenceServicer:
    """Answers the methods of `GRPCInferenceService`, one call at a time and each in its own task.

    A message may come as its bytes, which are then read here, so that bytes that are no message are
    answered and accounted for like any other request.
    """

    def __init__(
        self,
        repository: Repository,
        sequences: Sequences,
        settings: Settings,
        metrics: Metrics,
        accounting: RequestAccounting,
        keys: KeyRing | None = None,
        memory: BodyMemory | None = None,
        who_asks: WhoAsks | None = None,
        needs: Needs | None = None,
    ) -> None:
        """Serve the live models of a repository.

        Args:
            repository: the models.
            sequences: their sequences.
            settings: the limits.
            metrics: what the statistics are made of.
            accounting: takes in what every call came to.
            keys: the API keys, if a call must bring one.
            memory: for the messages that the process holds; a limit of its own without.
            who_asks: returns the client, from the connection's address and the metadata.
            needs: has what a message asks for ready, once it is known who may ask.
        """
        self._repository = repository
        self._service = InferenceService(sequences, settings.max_tensor_bytes)
        self._metrics = metrics
        self._calls = Calls(
            accounting, keys, memory or BodyMemory(settings.max_inflight_bytes), who_asks, needs
        )
        self._answer = self._calls.answer
        self._concurrency: WeakKeyDictionary[Engine, Concurrency] = WeakKeyDictionary()

    def close(self) -> None:
        """Refuse new calls, and end streams when what they have sent is answered."""
        self._calls.close()

    async def finish(self, seconds: float, force: Callable[[], bool] = lambda: False) -> None:
        """Wait for the calls that run; tell those that are left that the server ends.

        `force` returns whether to wait no longer.
        """
        await self._calls.finish(seconds, force)

    # The methods of the service, with the names that gRPC gives them.

    async def ServerLive(
        self, request: pb.ServerLiveRequest | bytes, context: CallContext
    ) -> pb.ServerLiveResponse:
        """Say that the server answers."""
        return await self._calls.answer(
            "ServerLive", pb.ServerLiveRequest, request, context, self._live
        )

    async def ServerReady(
        self, request: pb.ServerReadyRequest | bytes, context: CallContext
    ) -> pb.ServerReadyResponse:
        """Say whether the archives of the start are live."""
        return await self._calls.answer(
            "ServerReady", pb.ServerReadyRequest, request, context, self._ready
        )

    async def ModelReady(
        self, request: pb.ModelReadyRequest | bytes, context: CallContext
    ) -> pb.ModelReadyResponse:
        """Say whether a model is live; one that does not exist is not, as Triton has it."""
        return await self._calls.answer(
            "ModelReady", pb.ModelReadyRequest, request, context, self._model_ready
        )

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest | bytes, context: CallContext
    ) -> pb.ServerMetadataResponse:
        """Say what the server is."""
        return await self._calls.answer(
            "ServerMetadata", pb.ServerMetadataRequest, request, context, self._metadata
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest | bytes, context: CallContext
    ) -> pb.ModelMetadataResponse:
        """Say what a live model takes and gives."""
        return await self._calls.answer(
            "ModelMetadata", pb.ModelMetadataRequest, request, context, self._model_metadata
        )

    async def ModelConfig(
        self, request: pb.ModelConfigRequest | bytes, context: CallContext
    ) -> pb.ModelConfigResponse:
        """Say the same as Triton's model configuration has it."""
        return await self._calls.answer(
            "ModelConfig", pb.ModelConfigRequest, request, context, self._model_config
        )

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest | bytes, context: CallContext
    ) -> pb.ModelStatisticsResponse:
        """Say how often models ran, and for how long."""
        return await self._calls.answer(
            "ModelStatistics", pb.ModelStatisticsRequest, request, context, self._statistics
        )

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest | bytes, context: CallContext
    ) -> pb.RepositoryIndexResponse:
        """Say which archives there are, and in which state."""
        return await self._calls.answer(
            "RepositoryIndex", pb.RepositoryIndexRequest, request, context, self._index
        )

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest | bytes, context: CallContext
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model, or load it again."""
        return await self._calls.answer(
            "RepositoryModelLoad", pb.RepositoryModelLoadRequest, request, context, self._load
        )

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest | bytes, context: CallContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload a model."""
        return await self._calls.answer(
            "RepositoryModelUnload", pb.RepositoryModelUnloadRequest, request, context, self._unload
        )

    async def ModelInfer(
        self, request: pb.ModelInferRequest | bytes, context: CallContext
    ) -> pb.ModelInferResponse:
        """Run a method of a model, or a step of a sequence."""
        return await self._calls.answer(
            "ModelInfer", pb.ModelInferRequest, request, context, self._infer
        )

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest | bytes], context: CallContext
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answer each message of a stream, in order; an error is the answer of its message only."""

        def answers(call: Call) -> OrderedAnswers[Any, pb.ModelStreamInferResponse]:
            return OrderedAnswers(requests, partial(self._start, call), STREAM_AHEAD)

        async for answer in self._calls.stream("ModelStreamInfer", context, answers):
            yield answer

    async def _live(self, _: pb.ServerLiveRequest, *context: object) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, _: pb.ServerReadyRequest, *context: object) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._repository.ready)

    async def _model_ready(
        self, asked: pb.ModelReadyRequest, *context: object
    ) -> pb.ModelReadyResponse:
        try:
            self._find(asked.name, asked.version)
        except TorchShipError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def _metadata(
        self, _: pb.ServerMetadataRequest, *context: object
    ) -> pb.ServerMetadataResponse:
        return _message(facts.server_metadata(), pb.ServerMetadataResponse())

    async def _model_metadata(
        self, asked: pb.ModelMetadataRequest, *context: object
    ) -> pb.ModelMetadataResponse:
        engine = self._find(asked.name, asked.version)
        found = facts.model_metadata(self._repository, engine)
        return _message(found, pb.ModelMetadataResponse())

    async def _model_config(
        self, asked: pb.ModelConfigRequest, *context: object
    ) -> pb.ModelConfigResponse:
        found = describe_config(self._find(asked.name, asked.version).manifest)
        return _message({"config": found}, pb.ModelConfigResponse())

    async def _statistics(
        self, asked: pb.ModelStatisticsRequest, *context: object
    ) -> pb.ModelStatisticsResponse:
        model, version = asked.name or None, asked.version or None
        found = await facts.statistics_of(self._repository, self._metrics, model, version)
        return _message(found, pb.ModelStatisticsResponse())

    async def _index(
        self, asked: pb.RepositoryIndexRequest, *context: object
    ) -> pb.RepositoryIndexResponse:
        entries = facts.index_entries(self._repository, asked.ready)
        for entry in entries:
            entry.pop("sha256", None)  # the protocol's message has no field for it
        return _message({"models": entries}, pb.RepositoryIndexResponse())

    async def _load(
        self, asked: pb.RepositoryModelLoadRequest, *context: object
    ) -> pb.RepositoryModelLoadResponse:
        facts.check_load(values_of(asked.parameters))
        name = _model_of(asked)
        await self._repository.load_model(name)
        return pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def _unload(
        self, asked: pb.RepositoryModelUnloadRequest, *context: object
    ) -> pb.RepositoryModelUnloadResponse:
        facts.check_unload(values_of(asked.parameters))
        name = _model_of(asked)
        await self._repository.unload_model(name)
        return pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

    def _find(self, model: str, version: str) -> Engine:
        return self._repository.find(model, version or None)

    def _start(
        self, call: Call, request: pb.ModelInferRequest | bytes
    ) -> tuple[Hashable, Coroutine[Any, Any, pb.ModelStreamInferResponse]]:
        """Return the sequence of a message and what answers it; see `OrderedAnswers`."""
        sequence = None
        message: pb.ModelInferRequest | None = None
        try:
            message = (
                parse(pb.ModelInferRequest, request) if isinstance(request, bytes) else request
            )
            number = values_of(message.parameters).get("sequence_id")
            sequence = (message.model_name, str(number)) if number else None
        except TorchShipError:
            pass  # it is raised again, and told, where the message is answered
        return sequence, self._answer_message(call, request if message is None else message)

    async def _answer_message(
        self, call: Call, request: pb.ModelInferRequest | bytes
    ) -> pb.ModelStreamInferResponse:
        SOURCE.set(call.client)
        message = None if isinstance(request, bytes) else request
        response = pb.ModelStreamInferResponse()
        answer, failure = await self._calls.answer_message(
            call, pb.ModelInferRequest, request, self._infer
        )
        if failure is not None:
            response.error_message = failure.message
            response.infer_response.id = message.id if message is not None else ""
        elif answer is not None:
            response.infer_response.CopyFrom(answer)
            if message is not None and values_of(message.parameters).get(FINAL_WANTED) is True:
                set_parameter(response.infer_response.parameters[FINAL], True)
        return response

    async def _infer(
        self, message: pb.ModelInferRequest, call: Call, record: Record
    ) -> pb.ModelInferResponse:
        record.decode_started = time.perf_counter()
        target = message.model_name, message.model_version or None
        # Held, so that a newer version that takes over meanwhile leaves this request its engine.
        with self._repository.find(*target) as engine:
            record.model, record.version = engine.manifest.name, engine.manifest.version
            concurrency = self._concurrency.get(engine)
            if concurrency is None:
                concurrency = self._concurrency[engine] = Concurrency()
            COMPANIONS.set(concurrency.enter())
            try:
                if typed_bytes(message) > LARGE_JSON:
                    request = await asyncio.to_thread(read_request, message)
                else:
                    request = read_request(message)
                bound(request, call.context.time_remaining())
                answer = await self._service.run(engine, target, request, _encode, record)
            finally:
                concurrency.leave()
            record.encoded = time.perf_counter()
            return answer


def bound(request: InferRequest, remaining: float | None) -> None:
    """Let a request wait no longer than until its client's deadline, in `remaining` seconds.

    Raises:
        DeadlineError: that has passed.
    """
    if remaining is None:
        return
    if remaining <= 0:
        raise DeadlineError("the request came after its deadline")
    if request.timeout is None or remaining < request.timeout:
        request.parameters["timeout"] = max(1, int(remaining * 1e6))


async def _encode(
    manifest: Manifest, request: InferRequest, outputs: Mapping[str, RawTensor]
) -> pb.ModelInferResponse:
    return await encode_ranked(manifest, request, outputs, partial(write_answer, manifest, request))


def _message(found: Mapping[str, object], message: R) -> R:
    """Return a message with the content of a document of the protocol's JSON."""
    return ParseDict(dict(found), message, ignore_unknown_fields=True)


def _model_of(asked: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """Return the name of the model; see `inference.proto` for the two places where it may be."""
    return asked.model_name or asked.repository_name
