"""Files of tables: chunks, rows with their numbers, and files that are damaged or hostile."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchship.score.errors import TableError
from torchship.score.npz_table import NpzTable
from torchship.score.opening import open_table
from torchship.score.tables import Chunk, rechunked

ROWS = 23


def parquet(path: Path) -> None:
    table = pa.table({"x": np.arange(ROWS), "y": [[n, n + 1] for n in range(ROWS)]})
    pq.write_table(table, path, row_group_size=7)


def csv(path: Path) -> None:
    path.write_text("x,y\n" + "".join(f'{n},"[{n}, {n + 1}]"\n' for n in range(ROWS)))


def npz(path: Path) -> None:
    np.savez(path, x=np.arange(ROWS), y=np.arange(ROWS)[:, None] + np.arange(2))


def npz_compressed(path: Path) -> None:
    y = np.asfortranarray(np.arange(ROWS)[:, None] + np.arange(2))
    np.savez_compressed(path, x=np.arange(ROWS).astype(">i8"), y=y)


WRITTEN: dict[str, Callable[[Path], None]] = {
    "table.parquet": parquet,
    "table.csv": csv,
    "table.npz": npz,
    "compressed.npz": npz_compressed,
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("size", [1, 4, 7, 23, 100])
def test_chunks_have_every_row_once(name: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITTEN[name](path)
    for first in range(-(-ROWS // size) + 1):
        table = open_table(path)
        chunks = list(table.chunks(["y", "x"], size, first))
        assert all(len(chunk.numbers) == size for chunk in chunks[:-1])
        numbers = [number for chunk in chunks for number in chunk.numbers]
        assert numbers == list(range(first * size, ROWS))
        values = [int(v) for chunk in chunks for v in chunk.rows.column("x").to_pylist()]
        assert values == numbers
        assert [chunk.rows.schema.names for chunk in chunks] == [["y", "x"]] * len(chunks)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5), max_size=8), st.integers(1, 7), st.integers(0, 9))
def test_chunks_of_any_batches(lengths: list[int], size: int, skip: int) -> None:
    rows = iter(range(100))
    batches = [pa.record_batch({"x": [next(rows) for _ in range(length)]},
                               pa.schema([("x", pa.int64())])) for length in lengths]  # fmt: skip
    chunks = [batch.column("x").to_pylist() for batch in rechunked(batches, size, skip)]
    assert [value for chunk in chunks for value in chunk] == list(range(sum(lengths)))[skip:]
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(chunks)


def test_lines_of_a_csv_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'id,x\n0,"a\nb"\n1\n2,c\n\n3,d,e\n4,\xff\n5,\n6,""\n7,h\n8,i,j\n9,k,\n')
    chunks = list(open_table(path).chunks(["x"], 2))
    assert [list(chunk.numbers) for chunk in chunks] == [[0, 2], [5], [6, 7], []]
    texts = [text for chunk in chunks for text in chunk.rows.column("x").to_pylist()]
    assert texts == ["a\nb", "c", None, "", "h"]
    bad = {row.row: (row.column, row.error) for chunk in chunks for row in chunk.bad}
    assert bad == {
        1: (None, "the row has 1 cells: expected 2"),
        3: (None, "the row has 3 cells: expected 2"),
        4: ("x", "it is not UTF-8"),
        8: (None, "the row has 3 cells: expected 2"),
        9: (None, "the row has 3 cells: expected 2"),
    }


def test_a_csv_of_bad_lines_only_and_one_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,x\n" + "1\n" * 5)
    (chunk,) = open_table(path).chunks(["x"], 2)
    assert (len(chunk.numbers), [row.row for row in chunk.bad]) == (0, [0, 1, 2, 3, 4])
    path.write_text("id,x\n")
    assert list(open_table(path).chunks(["x"], 2)) == []


def test_tabs_marks_and_quotes_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(b'\xef\xbb\xbfx\ty\r\n"1,5"\t"a ""b"""\r\n')
    (chunk,) = open_table(path).chunks(["x", "y"], 9)
    assert chunk.rows.to_pylist() == [{"x": "1,5", "y": 'a "b"'}]


def damaged_parquet(path: Path) -> None:
    parquet(path)
    path.write_bytes(path.read_bytes()[:-20])


def bent_parquet(path: Path) -> None:
    pq.write_table(
        pa.table({"x": np.random.default_rng(0).integers(0, 1 << 60, 4000)}),
        path,
        write_page_checksum=True,
        use_dictionary=False,
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def pickled(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(path.parent / "exploded"),)

    np.savez(path, x=np.array([Bomb(), None], dtype=object), allow_pickle=True)


def lying_npz(path: Path) -> None:
    """An array that says that it has 10^12 rows, of one."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)}
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", header.getvalue() + bytes(8))


def cut_npz(path: Path) -> None:
    npz(path)
    path.write_bytes(path.read_bytes()[:300])


def bent_npz(path: Path) -> None:
    npz(path)
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(data)


def encrypted_npz(path: Path) -> None:
    npz(path)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "missing.parquet": lambda path: None,
    "empty.parquet": lambda path: path.write_bytes(b""),
    "damaged.parquet": damaged_parquet,
    "bent.parquet": bent_parquet,
    "text.parquet": lambda path: path.write_text("x\n1\n"),
    "empty.csv": lambda path: path.write_bytes(b""),
    "long.csv": lambda path: path.write_bytes(b"x\n" + b"1" * (20 << 20)),
    "fifo.csv": lambda path: os.mkfifo(path),
    "folder.csv": lambda path: path.mkdir(),
    "pickle.npz": lambda path: path.write_bytes(pickle.dumps([1])),
    "pickled.npz": pickled,
    "lying.npz": lying_npz,
    "cut.npz": cut_npz,
    "bent.npz": bent_npz,
    "encrypted.npz": encrypted_npz,
    "empty.npz": lambda path: path.write_bytes(b""),
    "table.xlsx": lambda path: path.write_bytes(b""),
    "new\nline.parquet": lambda path: path.write_bytes(b"PAR1"),
    "\udcff.parquet": lambda path: path.write_bytes(b"PAR1"),
}


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_files_that_are_no_tables(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    HOSTILE[name](path)

    def read() -> list[Chunk]:
        table = open_table(path)
        if pa.types.is_null(table.schema.field("x").type):
            raise TableError(f"'{path}': 'x' is no column")
        return list(table.chunks(["x"], 4))

    with pytest.raises(TableError) as refused:
        read()
    text = str(refused.value)
    assert "\n" not in text
    assert len(text) < 500
    text.encode()  # it can be printed
    assert os.listdir(tmp_path) in ([], [name])


def test_arrays_whose_rows_differ_and_arrays_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, x=np.arange(3), y=np.arange(4), z=np.array(1), e=np.zeros((3, 0)))
    table = NpzTable(path)
    assert [str(field.type) for field in table.schema] == ["int64", "int64", "null", "null"]
    with pytest.raises(TableError, match="array 'y' has 4 rows: expected 3"):
        list(table.chunks(["x", "y"], 2))
    assert len(list(table.chunks(["y"], 2))) == 2


def test_texts_in_arrays(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, u=np.array(["ä", ""]), s=np.array([b"a", b"bc"]))
    (chunk,) = open_table(path).chunks(["u", "s"], 9)
    assert chunk.rows.to_pylist() == [{"u": "ä", "s": b"a"}, {"u": "", "s": b"bc"}]
