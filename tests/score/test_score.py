"""Rows in, their outputs out: every kind of method, at any batch size, whatever else is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from served import Model, make, method, needs, once, tensor, write
from torchship.score.command import Options, score_archive
from torchship.score.errors import DisagreementError, RunError
from torchship.score.runs import Report
from torchship.script.errors import InputError
from torchship.script.exporting.export import export
from torchship.script.runtime.archive import open_archive
from zoo import accumulator_target

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives")


def score(path: Path, table: pa.Table | dict[str, Any], folder: Path, **said: Any) -> Report:
    """Score one table to `folder / "out"`."""
    made = table if isinstance(table, pa.Table) else pa.table(table)
    pq.write_table(made, folder / "in.parquet")
    options = Options(inputs=[str(folder / "in.parquet")], output=folder / "out", **said)
    return score_archive(open_archive(path), options)


def result(folder: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(folder / "out" / "in.parquet").to_pydict()
    return columns


def bad(folder: Path) -> list[dict[str, Any]]:
    file = folder / "out" / "_bad" / "in.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(0, 40), size=st.integers(1, 50))
def test_any_batch_size_gives_what_each_row_gives_alone(
    rows: int, size: int, archives: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run")
    path = archives / "memory-1.pt"
    path = path if path.exists() else make(archives, "memory")
    x = RANDOM.normal(size=(rows, 2)).astype(np.float32)
    table = pa.table({"x": pa.array(x.tolist(), pa.list_(pa.float32()))})
    report = score(path, table, folder, batch_rows=size)
    assert (report.scored, report.bad) == (rows, 0)
    program = open_archive(path).program()
    found = result(folder)
    assert found["row"] == list(range(rows))
    for row in range(rows):
        alone = program.call("forward", {"x": torch.from_numpy(x[row : row + 1])})
        assert np.array_equal(found["y"][row], alone["y"][0].numpy())
        assert np.array_equal(found["h"][row], alone["h"][0].numpy())


def test_a_batch_in_the_middle_and_numbers_that_are_no_tensors(
    archives: Path, tmp_path: Path
) -> None:
    path = make(archives, "layered")
    rows = 30
    x = RANDOM.normal(size=(rows, 3)).astype(np.float32)
    h = RANDOM.normal(size=(rows, 2, 3)).astype(np.float32)
    scale = [0.5 if row % 3 else 0.25 for row in range(rows)]
    score(path, {"x": x.tolist(), "h": h.tolist(), "scale": scale}, tmp_path, batch_rows=8)
    program = open_archive(path).program()
    found = result(tmp_path)
    for row in range(rows):
        alone = program.call(
            "forward",
            {
                "x": torch.from_numpy(x[row : row + 1]),
                "h": torch.from_numpy(h[row][:, None].copy()),
                "scale": torch.tensor(scale[row], dtype=torch.float64),
            },
        )
        assert found["y"][row] == alone["y"][0].item()
        assert np.array_equal(found["h"][row], alone["h"][:, 0].numpy())


def test_rows_of_several_calls_keep_their_order(archives: Path, tmp_path: Path) -> None:
    path = make(archives, "layered")
    x = RANDOM.normal(size=(30, 3)).astype(np.float32)
    scale = [0.5 if row % 3 else 0.25 for row in range(30)]
    notes: list[str] = []
    score(path, {"x": x.tolist(), "scale": scale}, tmp_path, batch_rows=8, note=notes.append)
    assert not any("one by one" in note for note in notes)
    program = open_archive(path).program()
    for row, found in enumerate(result(tmp_path)["y"]):
        inputs = {"x": torch.from_numpy(x[row : row + 1])}
        inputs["scale"] = torch.tensor(scale[row], dtype=torch.float64)
        assert found == program.call("forward", inputs)["y"][0].item()


def test_every_kind_of_input_row_by_row(archives: Path, tmp_path: Path) -> None:
    path = make(archives, "nested")
    table = pa.table({
        "first": [[1.0, 2.0, 3.0], [1.0], [1.0]],
        "pair.1": [[1.0, 1.0, 1.0], [2.0], [2.0]],
        "named.left": [[0.0, 0.0, 1.0], [3.0], [3.0]],
        "many.0": [[1.0, 1.0, 1.0], [4.0], [4.0]],
        "text": ["grüße", "other", None],
        "scale": [2, 3, 4],
        "times": [2.0, 3.0, 4.0],
    })  # fmt: skip
    report = score(path, table, tmp_path, mapped=["pair.0=first"], keep=["text"])
    assert (report.scored, report.bad) == (2, 1)
    assert result(tmp_path) == {
        "row": [0, 1],
        "total": [[4.0, 5.0, 8.0], [20.0]],
        "greets": [[True], [False]],
        "text": ["grüße", "other"],
    }
    assert bad(tmp_path)[0]["column"] == "text"


def test_dtypes_that_tables_do_not_have(archives: Path, tmp_path: Path) -> None:
    score(make(archives, "half"), {"x": [[0.5, 1.00390625], [3.0]]}, tmp_path)
    assert result(tmp_path) == {
        "row": [0, 1],
        "double": [[1.0, 2.0], [6.0]],
        "wide": [[0.5, 1.0], [3.0]],
    }


def test_every_dtype_comes_back(archives: Path, tmp_path: Path) -> None:
    most = {"h": 65504, "a": 127, "s": -32768, "i": 2**31 - 1, "us": 65535, "ui": 2**32 - 1,
            "ul": 2**64 - 1}  # fmt: skip
    table = {
        name: pa.array([[value, 0]], pa.list_(pa.uint64() if name == "ul" else pa.int64()))
        for name, value in most.items()
    }
    score(make(archives, "every"), table, tmp_path)
    found = result(tmp_path)
    assert {name: found[f"{name}_out"] for name in most} == {n: [[v, 0]] for n, v in most.items()}


@pytest.mark.parametrize("name", ["picky", "rationed", "reshaped", "positive"])
def test_rows_that_the_model_refuses_cost_themselves_only(
    name: str, archives: Path, tmp_path: Path
) -> None:
    wrong = {3, 4, 17, 59} if name != "positive" else {3, 17}
    values = [-1.0 if name == "positive" else 150.0 if n in wrong else 1.0 for n in range(60)]
    values = [v if n in wrong else 1.0 + n / 100 for n, v in enumerate(values)]
    report = score(make(archives, name), {"x": values}, tmp_path, batch_rows=16)
    found = result(tmp_path)
    assert found["row"] == [n for n in range(60) if n not in wrong]
    assert np.allclose([y[0] for y in found["y"]], [2 * (1 + n / 100) for n in found["row"]])
    assert (report.scored, report.bad) == (60 - len(wrong), len(wrong))
    assert [(row["row"], row["code"]) for row in bad(tmp_path)] == [
        (n, "model_raised") for n in sorted(wrong)
    ]


def test_a_long_complaint_is_cut(archives: Path, tmp_path: Path) -> None:
    path = make(archives, "logarithm")
    report = score(path, {"x": [[1.0], [200.0], [2.0, 3.0]]}, tmp_path)
    assert (report.scored, report.bad) == (2, 1)
    assert result(tmp_path)["output"] == [
        [0.0],
        np.log(np.array([2, 3], dtype=np.float32)).tolist(),
    ]
    assert "the sum is over 100" in bad(tmp_path)[0]["error"]
    assert len(bad(tmp_path)[0]["error"]) < 400


class Centred(nn.Module):
    """x: float32[batch,1] -> x without the mean of all rows, so that no row is independent."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_rows_that_are_not_independent_run_one_by_one(archives: Path, tmp_path: Path) -> None:
    signature = method([needs(tensor("x", "float32", "batch", 1))],
                       tensor("y", "float32", "batch", 1))  # fmt: skip
    inputs = {"x": torch.tensor([[1.0], [3.0]])}
    path = archives / "centred.pt"
    write(path, Model(Centred(), {"forward": signature}, [once(inputs)]), "centred")
    notes: list[str] = []
    report = score(path, {"x": [1.0, 2.0, 4.0]}, tmp_path, note=notes.append)
    assert (report.scored, report.bad) == (3, 0)
    assert result(tmp_path)["y"] == [[0.0], [0.0], [0.0]]
    assert any("rows run one by one" in note for note in notes)


def test_a_state_that_starts_absent_or_is_given(archives: Path, tmp_path: Path) -> None:
    path = archives / "accumulator.pt"
    export(accumulator_target(), path)
    x = RANDOM.normal(size=(5, 3)).astype(np.float32)
    score(path, {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]}, tmp_path, mapped=["x=a,b,c"])
    alone = open_archive(path).program().call("forward", {"x": torch.from_numpy(x)})
    assert np.allclose(result(tmp_path)["y"], alone["y"].numpy(), atol=1e-6)


def test_what_made_a_result_is_in_it(archives: Path, tmp_path: Path) -> None:
    path = make(archives, "memory")
    score(path, {"x.1": [1.0], "x.0": [2.0], "id": ["a"]}, tmp_path, keep_all=True)
    table = pq.read_table(tmp_path / "out" / "in.parquet")
    assert json.loads(table.schema.metadata[b"torchship"]) == {
        "model": "memory", "version": "1", "archive": open_archive(path).digest,
        "method": "forward", "runtime": "script",
    }  # fmt: skip
    assert table.schema.names == ["row", "y", "h", "x.1", "x.0", "id"]
    assert table.column("h").to_pylist() == [[2.0, 1.0]]


def test_csv_and_npz_are_read_and_written(archives: Path, tmp_path: Path) -> None:
    path = make(archives, "memory")
    x = RANDOM.normal(size=(9, 2)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, id=np.array([f"n{n}" for n in range(9)]))
    (tmp_path / "b.csv").write_text(
        "id,x\n" + "".join(f'n{n},"{row.tolist()}"\n' for n, row in enumerate(x))
    )
    (tmp_path / "c.csv").write_text(
        "id,x.0,x.1\n" + "".join(f"n{n},{a},{b}\n" for n, (a, b) in enumerate(x.tolist()))
    )
    expected = open_archive(path).program().call("forward", {"x": torch.from_numpy(x)})
    for ending in ("csv", "npz", "parquet"):
        options = Options(
            inputs=[str(tmp_path / name) for name in ("a.npz", "b.csv", "c.csv")],
            output=tmp_path / ending, format=ending, keep=["id"], row_column="",
        )  # fmt: skip
        report = score_archive(open_archive(path), options)
        assert (report.scored, report.bad, report.failed) == (27, 0, {})
    for name in "abc":
        with np.load(tmp_path / "npz" / f"{name}.npz") as arrays:
            assert sorted(arrays) == ["h", "id", "y"]
            assert arrays["y"].dtype == np.float32
            assert np.array_equal(arrays["y"], expected["y"].numpy())
            assert arrays["id"].tolist() == [f"n{n}" for n in range(9)]
        table = pc.read_csv(tmp_path / "csv" / f"{name}.csv")
        found = [json.loads(text) for text in table.column("y").to_pylist()]
        assert np.array_equal(np.array(found, dtype=np.float32), expected["y"].numpy())
        assert (
            pq.read_table(tmp_path / "parquet" / f"{name}.parquet").column("id")[8].as_py() == "n8"
        )


def test_archives_that_do_not_prove_themselves_score_nothing(
    archives: Path, tmp_path: Path
) -> None:
    changed = make(
        archives, "memory", "2", edit=lambda outputs: {n: o + 1 for n, o in outputs.items()}
    )
    with pytest.raises(DisagreementError, match="golden case 0") as refused:
        score(changed, {"x": [[1.0, 2.0]]}, tmp_path)
    assert refused.value.exit_code == 1
    with pytest.raises(DisagreementError, match="no golden case"):
        score(make(archives, "memory", "3", golden=False), {"x": [[1.0, 2.0]]}, tmp_path / "..")
    assert not list((tmp_path / "out").glob("*.parquet"))


X = {"x": [[1.0, 2.0]]}


@pytest.mark.parametrize(
    ("table", "said", "message"),
    [
        (X, {"method": "act"}, "has no method 'act'"),
        (X, {"mapped": ["z=x"]}, "method 'forward' has no such input: it has 'x', 'h'"),
        (X, {"mapped": ["x"]}, "expected INPUT=COLUMN"),
        (X, {"format": "xlsx"}, "expected one of parquet, csv, npz"),
        (X | {"y": [1]}, {"keep": ["y"]}, "two columns 'y'"),
        (X | {"row": [1]}, {"keep": ["row"]}, "two columns 'row'"),
    ],
)
def test_options_that_cannot_be(
    table: dict[str, Any], said: dict[str, Any], message: str, archives: Path, tmp_path: Path
) -> None:
    with pytest.raises((RunError, InputError), match=message):
        score(make(archives, "memory"), table, tmp_path, **said)


@pytest.mark.parametrize(
    ("table", "said", "message"),
    [
        (pa.table({"z": [1.0]}), {}, "there is no column 'x' for the input 'x' (float32[2]): the"),
        (pa.table(X), {"mapped": ["x=a,b"]}, "there is no column 'a', which --map names"),
        (pa.table(X), {"keep": ["id"]}, "the column 'id', which is to be kept, is not there"),
        (
            pa.table({"x": ["a"], "h": [1]}),
            {},
            "column 'h' has the type int64: expected",
        ),
        (pa.table({"x.0": [1.0]}), {}, "expected float32[2]"),
        (pa.table({"x.0": [1], "x.1": [1], "x.2": [1]}), {}, "are 3 numbers for the input 'x'"),
        (pa.table([[1], [2]], names=["x", "x"]), {}, "the column 'x' stands 2 times"),
        (pa.table({}), {}, "the table has no columns"),
    ],
)
def test_tables_that_do_not_fit(
    table: pa.Table, said: dict[str, Any], message: str, archives: Path, tmp_path: Path
) -> None:
    report = score(make(archives, "memory"), table, tmp_path, **said)
    (error,) = report.failed.values()
    assert message in error
    assert "in.parquet'" in error
    assert not (tmp_path / "out" / "in.parquet").exists()


def test_an_output_without_rows_belongs_to_one_row(archives: Path, tmp_path: Path) -> None:
    table = pa.table({
        "f": [[1.0], [2.0, 3.0]], "d": [[1.0], [2.0, 3.0]], "i": [[1], [2, 3]],
        "u": [[1], [2, 3]], "b": [[True], [False, True]],
    })  # fmt: skip
    score(make(archives, "exact"), table, tmp_path)
    assert result(tmp_path)["total"] == [1.0, 5.0]
    assert result(tmp_path)["b_out"] == [[True], [False, True]]
