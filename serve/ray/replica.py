"""A replica: the archives of an application, proved, and the application that answers for them."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from functools import partial
from pathlib import Path

from ray import serve
from starlette.types import ASGIApp

from torchship.script.errors import ArchiveError, TorchShipError
from torchship.script.runtime import operators
from torchship.serve.grpc.servicer import InferenceServicer
from torchship.serve.http.app import Application, create_app
from torchship.serve.process.credentials import api_keys_of
from torchship.serve.process.server import Shared, make_repository
from torchship.serve.ray.asgi import BehindProxy, Multiplexing
from torchship.serve.ray.autoscaling import QUEUE_ROWS
from torchship.serve.ray.blueprint import Blueprint
from torchship.serve.ray.grpc_methods import GrpcMethods
from torchship.serve.ray.grpc_proxy import name_in
from torchship.serve.ray.held_models import HeldModels, MultiplexedRepository
from torchship.serve.ray.records import write_used
from torchship.serve.ray.shipping import take
from torchship.serve.repository.repository import Repository
from torchship.serve.settings import Settings
from torchship.serve.telemetry.logs import configure_logging
from torchship.serve.telemetry.metrics import Metrics

MARK = "torchship refused:"
"""Precedes the reason in the error of a replica that does not start."""


class Replica(GrpcMethods):
    """What Ray Serve makes in a process of its own; it takes requests when `__init__` has ended."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, blueprint: str
    ) -> None:
        """Load the archives of a `Blueprint` and run their golden cases.

        Raises:
            RuntimeError: an archive failed; the message says which, and why.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="torchship-ray-"))
        self._repository: Repository | None = None
        self._application: Application | None = None
        try:
            self._plan = Blueprint.model_validate_json(blueprint)
            write_used(serve.get_replica_context().app_name, self._plan)
            await self._start()
        except TorchShipError as error:
            await self._end()
            raise RuntimeError(f"{MARK} {error}") from None
        except BaseException:
            await self._end()
            raise

    async def _start(self) -> None:
        plan = self._plan
        archives = [await asyncio.to_thread(take, s, self._folder) for s in plan.shipped]
        settings = Settings(**json.loads(plan.settings) | self._changes(archives))
        configure_logging(settings.log_format, settings.log_level)
        operators.allow(settings.operators)
        metrics = Metrics()
        kind = Repository if plan.max_models is None else MultiplexedRepository
        shared = Shared(credentials=plan.credentials)
        repository = self._repository = make_repository(settings, shared, metrics, kind)
        keys = plan.credentials.api_keys
        held = self._held_models(repository, settings.load)
        application = self._application = create_app(
            *(repository, settings, metrics),
            keys=None if keys is None else api_keys_of(keys),
            innermost=None if held is None else partial(Multiplexing, models=held),
        )
        self._max_message_bytes = settings.max_body_bytes
        self._servicer = InferenceServicer(
            *(repository, application.state.sequences, settings, metrics),
            application.front.accounting,
            keys=application.keys,
            memory=application.body_memory,
            who_asks=application.proxies.client,
            needs=None if held is None else lambda message: held.needed(name_in(message)),
        )
        await repository.load()
        failures = _failures(repository)
        if failures:
            raise ArchiveError("; ".join(failures))
        if plan.max_models is None:  # what is loaded is in memory, and no file is read again
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _changes(self, archives: list[Path]) -> dict[str, object]:
        """Return the settings that are this replica's own."""
        plan = self._plan
        changes: dict[str, object] = {"paths": [*map(str, archives), *plan.paths]}
        if plan.max_models is not None:
            changes |= {"mode": "explicit", "load": plan.names[: plan.max_models]}
        return changes

    def _held_models(self, repository: Repository, loaded: tuple[str, ...]) -> HeldModels | None:
        """Return what brings the models that requests name; None if all of them are held."""
        most = self._plan.max_models
        if most is None or not isinstance(repository, MultiplexedRepository):
            return None
        return HeldModels(repository, self._plan.names, most, loaded)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application, which Ray asks for when `__init__` has ended."""
        assert self._application is not None
        return BehindProxy(self._application)

    def check_health(self) -> None:
        """Have Ray replace this replica if a model of it is out of service.

        Raises:
            RuntimeError: it is.
        """
        assert self._repository is not None
        failures = _failures(self._repository)
        if failures:
            raise RuntimeError("; ".join(failures))

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the policy decides by: the rows that wait for the engines."""
        assert self._repository is not None
        return {QUEUE_ROWS: float(sum(self._repository.status().waiting_rows.values()))}

    async def __del__(self) -> None:
        """End when Ray ends the replica, after the requests that it had."""
        await self._end()

    async def _end(self) -> None:
        repository, self._repository = self._repository, None
        if repository is not None:
            repository.halt()
            application = self._application
            if application is not None:
                self._servicer.close()
                application.codec.close()
                await application.state.sequences.close()
                if application.tracer is not None:
                    await asyncio.to_thread(application.tracer.close)
            repository.release()
        shutil.rmtree(self._folder, ignore_errors=True)


def _failures(repository: Repository) -> list[str]:
    """Return what is wrong with the archives that are to be live, each by its file's name."""
    return [
        f"'{entry.path.name}': {entry.reason or entry.public_reason}".replace(
            entry.printable_path, entry.path.name
        )
        for entry in repository.entries
        if (entry.initial and entry.state != "live") or entry.out
    ]


Ingress = serve.ingress()(Replica)
"""The replica as Ray Serve's proxies call it."""
