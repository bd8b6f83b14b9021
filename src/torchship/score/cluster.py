"""Scores the parts of tables on a Ray cluster, with Ray Data.

Ray is told what to read, not what was read: an item is a range of parts of a file, each worker
reads it, and the driver writes what comes back. Parts are made of the same calls as in one process,
so the results are the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data

from torchship.score.errors import ClusterError, TableError
from torchship.score.model import Model, Runtime, one_thread
from torchship.score.opening import open_table
from torchship.score.runs import Run
from torchship.score.scorer import Columns, Scorer
from torchship.score.state import FileState
from torchship.score.tables import check_regular, first_line, named
from torchship.script.errors import TorchShipError
from torchship.script.runtime import operators
from torchship.script.runtime.archive import parse_archive

CONNECT_SECONDS = 10
UNIT_PARTS = 8  # parts that one worker scores in a row

PART, END, BAD_TABLE, FATAL = "part", "end", "bad_table", "fatal"


@dataclass(frozen=True)
class Unit:
    """Parts of a file that follow each other."""

    file: int
    """Its place among the files that are left."""
    path: str
    size: int
    modified_ns: int
    first: int
    last: int | None
    """The part behind the last; None for all that the file has."""


@dataclass(frozen=True)
class Work:
    """What every worker gets."""

    name: str
    digest: str
    archive: ray.ObjectRef[bytes]
    """The archive's bytes, which a node gets once."""
    method: str
    runtime: Runtime
    columns: Columns
    operator_folders: list[str]


class Worker:
    """An actor that has loaded and proved the archive once."""

    def __init__(self) -> None:
        """Load nothing yet."""
        self._scorer: Scorer | None = None
        self._error = ""

    def _load(self, work: Work) -> Scorer | None:
        """Return the scorer, loaded at the first call; what goes wrong is told by each call."""
        if self._scorer is None and not self._error:
            try:
                self._scorer = _make_scorer(work)
            except TorchShipError as error:
                self._error = str(error)
        return self._scorer

    def __call__(self, batch: dict[str, Any], work: Work) -> Iterator[dict[str, Any]]:
        """Score units, and yield a row for each part, each end and each error.

        `work` has the archive's bytes, whose digest is checked.
        """
        scorer = self._load(work)
        for text in batch["unit"]:
            unit = Unit(**json.loads(text))
            if scorer is None:
                yield _row(unit, FATAL, text=self._error)
                continue
            try:
                path = Path(unit.path)
                status = check_regular(path)
                if (status.st_size, status.st_mtime_ns) != (unit.size, unit.modified_ns):
                    raise TableError(f"{named(path)} is another file on a node of the cluster")
                table = open_table(path)
                count = None if unit.last is None else unit.last - unit.first
                parts = islice(scorer.parts(table, unit.first), count)
                for number, data in enumerate(parts, unit.first):
                    yield _row(unit, PART, number, data)
                yield _row(unit, END)
            except TableError as error:
                yield _row(unit, BAD_TABLE, text=str(error))
            except TorchShipError as error:
                yield _row(unit, FATAL, text=str(error))


def _make_scorer(work: Work) -> Scorer:
    one_thread()
    data: bytes = ray.get(work.archive)
    digest = hashlib.sha256(data).hexdigest()
    if digest != work.digest:
        raise ClusterError(
            f"the archive came to a node with the digest {digest[:16]}…: expected "
            f"{work.digest[:16]}…"
        )
    operators.allow([Path(folder) for folder in work.operator_folders])
    model = Model(parse_archive(Path(work.name), data), work.method, work.runtime)
    return Scorer(model, work.columns, lambda note: None)


def _row(unit: Unit, kind: str, part: int = 0, data: bytes = b"", text: str = "") -> dict[str, Any]:
    row = {"file": unit.file, "kind": kind, "part": part, "data": data, "text": text}
    return {name: np.array([value], dtype=object if name == "data" else None)
            for name, value in row.items()}  # fmt: skip


def run_on_cluster(
    run: Run, scorer: Scorer, model: Model, columns: Columns, folders: Sequence[Path],
    address: str | None, workers: int | None,
) -> None:  # fmt: skip
    """Score on a cluster what is left of a run.

    Args:
        run: its files; every node must see them under the same paths.
        scorer: this process's, which says how tables are cut into parts.
        model: proved here already; every worker proves it again.
        columns: as the scorer has them.
        folders: of the libraries of custom operators, on every node.
        address: of a running cluster; None starts one on this machine, or takes RAY_ADDRESS.
        workers: the number of processes; None for one for each core of the cluster.

    Raises:
        ClusterError: the cluster cannot be used, or a worker cannot score with the archive.
        TorchShipError: as `Run`.
    """
    units, open_units = _units(run, scorer)
    if not units:
        return
    ours = not ray.is_initialized()  # a program that uses Ray has its own connection
    if ours:
        _connect(address)
    _silence()
    try:
        data = model.archive.data
        work = Work(
            model.archive.path.name, model.archive.digest, ray.put(data), model.method.name,
            model.runtime, columns, [str(folder.absolute()) for folder in folders],
        )  # fmt: skip
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cores = max(1, int(resources.get("CPU", 1)))
        size = min(len(units), workers or cores)
        items = [{"unit": json.dumps(asdict(unit))} for unit in units]
        worker: Any = Worker  # Ray's types know no class that takes more than the batch
        results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            worker,
            fn_kwargs={"work": work},
            batch_size=1,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=size),
        )
        for row in results.iter_rows():
            _take(run, open_units, row)
    except ray.exceptions.RayError as error:
        raise ClusterError(f"the cluster failed: {first_line(error)}") from None
    finally:
        if ours:
            ray.shutdown()


def _take(run: Run, open_units: dict[int, int], row: dict[str, Any]) -> None:
    """Take what a worker tells; the last word of a file's units completes it."""
    if row["kind"] == FATAL:
        raise ClusterError(f"a worker of the cluster cannot score: {row['text']}")
    number = int(row["file"])
    state = run.left[number]
    if row["kind"] == PART:
        if row["part"] not in run.parts(state):  # a worker that was lost may have told it before
            run.take(state, int(row["part"]), row["data"], None)
    elif row["kind"] == BAD_TABLE:
        open_units[number] = -1
        run.fail(state, TableError(row["text"]))
    else:
        open_units[number] -= 1
        if open_units[number] == 0:
            run.complete(state)


def _units(run: Run, scorer: Scorer) -> tuple[list[Unit], dict[int, int]]:
    """Cut what is left into units; return them, and how many each file has."""
    units: list[Unit] = []
    counts: dict[int, int] = {}
    for number, state in enumerate(run.left):
        try:
            found = list(_units_of(run, number, state, scorer))
        except TableError as error:
            run.fail(state, error)
            continue
        if found:
            counts[number] = len(found)
            units += found
        else:
            run.complete(state)
    return units, counts


def _units_of(run: Run, number: int, state: FileState, scorer: Scorer) -> Iterator[Unit]:
    table = open_table(state.file.path)
    plan = scorer.plan(table)
    identity = state.file.identity()
    there = run.parts(state)

    def unit(first: int, last: int | None) -> Unit:
        path = os.path.abspath(state.file.path)
        return Unit(number, path, int(str(identity["size"])),
                    int(str(identity["modified_ns"])), first, last)  # fmt: skip

    if table.rows is None:  # where a part begins is known when those before have been read
        yield unit(next(n for n in range(len(there) + 1) if n not in there), None)
        return
    count = max(1, -(-table.rows // plan.part_rows))
    starts = list(table.starts)

    def place(part: int) -> tuple[int, int]:
        row = part * plan.part_rows
        group = sum(start <= row for start in starts)
        return group, part // UNIT_PARTS

    missing = [part for part in range(count) if part not in there]
    for _, group in groupby(missing, place):
        parts = list(group)
        if len(parts) == parts[-1] - parts[0] + 1:
            yield unit(parts[0], parts[-1] + 1)
        else:
            yield from (unit(part, part + 1) for part in parts)


def _connect(address: str | None) -> None:
    asked = address or os.environ.get("RAY_ADDRESS")
    if asked:
        _check_address(asked)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes out unasked
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong is raised, too
    own: Any = {"include_dashboard": False} if asked == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        where = f"at '{asked}' " if asked else ""
        raise ClusterError(
            f"there is no Ray cluster {where}to be reached: {first_line(error)}"
        ) from None


def _check_address(address: str) -> None:
    """Refuse an address where nobody listens, for which Ray would wait for minutes.

    Raises:
        ClusterError: nobody does, or it is no address.
    """
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or "/" in host:
        raise ClusterError(f"Ray's address '{address}': expected HOST:PORT, auto or local")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"there is no Ray cluster at '{address}' to be reached: {first_line(error)}"
        ) from None


def _silence() -> None:
    """Leave standard error to our own lines."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
