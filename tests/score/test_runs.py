"""Runs: ended and started again, changed meanwhile, two at once, with bad rows and bad files."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from served import make
from torchship.score.command import Options, score_archive
from torchship.score.errors import BadRowsError, RunError
from torchship.score.runs import Report
from torchship.score.state import run_state
from torchship.script.errors import UsageError
from torchship.script.runtime.archive import Archive, open_archive

ROWS = 300  # three parts of 64 calls of 2 rows


class Stopped(BaseException):
    """What ends a run in these tests, as an interrupt does."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return open_archive(make(tmp_path_factory.mktemp("archives"), "memory"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(1)
    for name in "ab":
        x = random.normal(size=(ROWS, 2)).astype(np.float32).tolist()
        x[7] = x[250] = None
        pq.write_table(pa.table({"x": x}), folder / f"{name}.parquet", row_group_size=50)
    return folder


@pytest.fixture
def options(data: Path) -> Options:
    return Options(inputs=[f"{data}/*.parquet"], output=data.parent / "out", batch_rows=2)


def files(folder: Path) -> dict[str, bytes]:
    """What a run has written for the user."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".torchship" not in path.parts
    }


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".torchship/*/*.arrow"))


class Wrapped:
    """Stops a run after a number of parts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.left = after
        monkeypatch.setattr("torchship.score.runs.Run.take", self._wrap())

    def _wrap(self) -> Any:
        from torchship.score.runs import Run

        take = Run.take

        def counted(run: Run, *given: Any) -> None:
            if not self.left:
                raise Stopped
            self.left -= 1
            take(run, *given)

        return counted


@pytest.mark.parametrize("after", range(6))
def test_a_run_that_was_ended_goes_on_and_gives_the_same_bytes(
    after: int, archive: Archive, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        Wrapped(patched, after)
        with pytest.raises(Stopped):
            score_archive(archive, options)
    assert len(parts(options.output)) == after % 3
    with monkeypatch.context() as patched:
        Wrapped(patched, 6 - after)  # no more than is left
        report = score_archive(archive, options)
    assert (report.scored, report.bad) == (2 * ROWS - 4, 4)
    assert parts(options.output) == []
    whole = replace(options, output=options.output.parent / "whole")
    assert score_archive(archive, whole).scored == report.scored
    assert files(whole.output) == files(options.output)
    assert sorted(files(whole.output)) == [
        "_bad/a.jsonl", "_bad/b.jsonl", "a.parquet", "b.parquet",
    ]  # fmt: skip


def test_a_run_that_is_complete_does_nothing(
    archive: Archive, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score_archive(archive, options)
    before = files(options.output)
    Wrapped(monkeypatch, 0)
    again = score_archive(archive, options)
    assert again.to_json() == first.to_json()
    assert files(options.output) == before


@pytest.mark.parametrize("lost", ["a.parquet", "_bad/a.jsonl"])
def test_an_output_that_was_removed_is_made_again(
    lost: str, archive: Archive, options: Options
) -> None:
    score_archive(archive, options)
    before = files(options.output)
    (options.output / lost).unlink()
    score_archive(archive, options)
    assert files(options.output) == before


def test_new_files_are_added(archive: Archive, options: Options, data: Path) -> None:
    score_archive(archive, options)
    shutil.copy(data / "a.parquet", data / "c.parquet")
    report = score_archive(archive, options)
    assert report.scored == 3 * ROWS - 6
    assert len(report.done) == 3


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"batch_rows": 3}, "batch rows"),
        ({"keep_all": True, "row_column": "n"}, "keep all"),
        ({"mapped": ["x=x"]}, "map"),
        ({"format": "csv"}, "format"),
    ],
)
def test_a_run_with_other_options_is_refused(
    change: dict[str, Any], what: str, archive: Archive, options: Options
) -> None:
    score_archive(archive, options)
    before = files(options.output)
    with pytest.raises(RunError, match=f"a run with another {what}: .*--restart"):
        score_archive(archive, replace(options, **change))
    assert files(options.output) == before


def test_a_run_with_another_archive_is_refused(
    archive: Archive, options: Options, tmp_path: Path
) -> None:
    score_archive(archive, options)
    other = open_archive(make(tmp_path, "memory", "2"))
    with pytest.raises(RunError, match=r"a run with another archive: .*--restart"):
        score_archive(other, options)
    (options.output / "mine.txt").write_text("kept")
    report = score_archive(other, replace(options, restart=True))
    assert report.scored == 2 * ROWS - 4
    assert (options.output / "mine.txt").read_text() == "kept"
    metadata = pq.read_schema(options.output / "a.parquet").metadata
    assert json.loads(metadata[b"torchship"])["version"] == "2"


@pytest.mark.parametrize("complete", [True, False])
def test_a_file_that_changed_is_refused(
    complete: bool, archive: Archive, options: Options, data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patched:
        if not complete:
            Wrapped(patched, 1)
        with suppress(Stopped):
            score_archive(archive, options)
    pq.write_table(pa.table({"x": [[1.0, 2.0]]}), data / "a.parquet")
    with pytest.raises(RunError, match=r"a.parquet' is another file than .*--restart"):
        score_archive(archive, options)
    report = score_archive(archive, replace(options, restart=True))
    assert report.scored == ROWS - 2 + 1


def test_an_output_that_is_not_ours_is_kept(archive: Archive, options: Options) -> None:
    options.output.mkdir()
    (options.output / "b.parquet").write_text("mine")
    for restart in (False, True):
        with pytest.raises(RunError, match=r"b.parquet' is there already, and not of this run"):
            score_archive(archive, replace(options, restart=restart))
    assert (options.output / "b.parquet").read_text() == "mine"


def test_two_runs_do_not_write_to_one_folder(archive: Archive, options: Options) -> None:
    with (
        run_state(options.output, {}, restart=False),
        pytest.raises(RunError, match="another run writes to"),
    ):
        score_archive(archive, replace(options, restart=True))
    with pytest.raises(RunError, match="a run with another"):  # the lock is free again
        score_archive(archive, options)


@pytest.mark.parametrize("damage", ["run.json", "*/file.json", "*/done.json", "*/*.arrow"])
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"bytes": 1}'])
def test_a_damaged_state_is_refused_and_can_be_left(
    damage: str, content: bytes, archive: Archive, options: Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patched:
        Wrapped(patched, 4)
        with pytest.raises(Stopped):
            score_archive(archive, options)
    state = options.output / ".torchship"
    for path in state.glob(damage):
        path.write_bytes(content)
    with pytest.raises(RunError, match="--restart"):
        score_archive(archive, options)
    assert score_archive(archive, replace(options, restart=True)).scored == 2 * ROWS - 4


def test_a_state_that_names_files_elsewhere_removes_nothing_there(
    archive: Archive, options: Options, tmp_path: Path
) -> None:
    score_archive(archive, options)
    (tmp_path / "mine").write_text("kept")
    for number, path in enumerate(options.output.glob(".torchship/*/file.json")):
        known = json.loads(path.read_bytes())
        known["output"] = ["../mine", str(tmp_path / "mine")][number]
        path.write_text(json.dumps(known))
    score_archive(archive, replace(options, restart=True))
    assert (tmp_path / "mine").read_text() == "kept"


def test_more_bad_rows_than_allowed_end_the_run(archive: Archive, options: Options) -> None:
    with pytest.raises(BadRowsError, match="2 rows are bad, and --max-bad allows 1"):
        score_archive(archive, replace(options, max_bad=1))
    told = (options.output / "_bad" / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in told] == [7, 250]
    report = score_archive(archive, replace(options, max_bad=4))
    assert report.bad == 4


def test_bad_files_cost_themselves_only(archive: Archive, options: Options, data: Path) -> None:
    good = (data / "a.parquet").read_bytes()
    (data / "a.parquet").write_bytes(good[:-10])
    (data / "c\nd.parquet").write_bytes(b"")
    report = score_archive(archive, options)
    assert report.scored == ROWS - 2
    assert sorted(Path(name).name for name in report.failed) == ["a.parquet", "c\nd.parquet"]
    assert all("\n" not in why for why in report.failed.values())
    assert not report.clean
    again = score_archive(archive, options)  # it is tried again
    assert again.failed == report.failed


def test_folders_of_inputs_keep_their_shape(archive: Archive, options: Options, data: Path) -> None:
    (data / "sub").mkdir()
    shutil.copy(data / "a.parquet", data / "sub" / "a.parquet")
    inside = replace(options, inputs=[f"{data}/**/*.parquet"], output=data / "out")
    for _ in range(2):  # its own outputs match the pattern, and are no inputs
        report = score_archive(archive, inside)
        assert (report.scored, report.failed) == (3 * (ROWS - 2), {})
    assert sorted(files(inside.output)) == [
        "_bad/a.jsonl", "_bad/b.jsonl", "_bad/sub/a.jsonl", "a.parquet", "b.parquet",
        "sub/a.parquet",
    ]  # fmt: skip
    assert pq.read_table(inside.output).num_rows == report.scored  # what begins with _ is passed


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["no*.parquet"], "out", "'no.*': there is no such file"),
        (["data/none.parquet"], "out", "there is no such file"),
        (["data/*.parquet"], "data", "holds the inputs"),
        (["data/*.parquet"], ".", "holds the inputs"),
        (["data/a.parquet"], "data", "holds the inputs"),
        (["data/*.parquet", "more/*.csv"], "out", "would both become 'out/a.parquet'"),
    ],
)
def test_inputs_and_outputs_that_cannot_be(
    inputs: list[str], output: str, message: str, archive: Archive, data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(data.parent)
    Path("more").mkdir()
    Path("more/a.csv").write_text("x.0,x.1\n1,2\n")
    with pytest.raises(RunError, match=message):
        score_archive(archive, Options(inputs=inputs, output=Path(output)))
    assert sorted(path.name for path in data.parent.iterdir()) == ["data", "more"]


def test_an_output_folder_that_cannot_be(archive: Archive, options: Options) -> None:
    options.output.write_text("a file")
    with pytest.raises(UsageError, match="cannot write to"):
        score_archive(archive, options)


@pytest.mark.parametrize("place", [".torchship", "a.parquet", "_bad"])
def test_outputs_that_cannot_be_written(place: str, archive: Archive, options: Options) -> None:
    """A folder or a file is in the way, for root may write everywhere."""
    score_archive(archive, options)
    target = options.output / place
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    target.write_text("") if place != "a.parquet" else (target / "full").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot write"):
        score_archive(archive, options)


def test_a_name_with_wildcards_is_a_name(archive: Archive, options: Options, data: Path) -> None:
    os.rename(data / "a.parquet", data / "[a]*.parquet")
    named = replace(options, inputs=[str(data / "[a]*.parquet")])
    report: Report = score_archive(archive, named)
    assert report.scored == ROWS - 2
    assert "[a]*.parquet" in files(options.output)
