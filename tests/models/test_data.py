import gzip
import hashlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from torchship.models import data
from torchship.models.errors import DataDamagedError, DataMissingError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the empty folder `mnist` of a TORCHSHIP_DATA."""
    monkeypatch.setenv("TORCHSHIP_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    return tmp_path / "mnist"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that downloads go to; TORCHSHIP_DATA is not set."""
    monkeypatch.delenv("TORCHSHIP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "torchship" / "mnist"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that a server on this machine offers as the only mirror."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(data, "MIRRORS", {"mnist": (url,), "": (url,)})
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_real_digits_are_as_published(digits: data.Digits) -> None:
    train = data.mnist("train")
    assert train.images.shape == (60_000, 784)
    assert digits.images.shape == (10_000, 784)
    assert train.images.dtype == digits.images.dtype == torch.uint8
    assert digits.labels.dtype == torch.int64
    # The counts per class and the mean pixel are well-known figures of the data set.
    assert digits.labels.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert float(train.images.float().mean()) / 255 == pytest.approx(0.1307, abs=1e-4)


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(DataMissingError) as raised:
        data.mnist("test")
    assert str(folder / "t10k-images-idx3-ubyte.gz") in str(raised.value)
    assert "TORCHSHIP_DATA must name a folder that holds mnist/t10k-images" in str(raised.value)


def test_other_content_is_refused_with_both_digests(folder: Path) -> None:
    content = b"not the test images"
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataDamagedError) as raised:
        data.mnist("test")
    assert hashlib.sha256(content).hexdigest() in str(raised.value)
    assert "expected 0fa7898d509279e482958e8ce81c8e77" in str(raised.value)
    assert "t10k-images-idx3-ubyte.gz" in str(raised.value)


@pytest.mark.parametrize(
    "damaged",
    [b"", b"plain text", gzip.compress(b"x" * 999)[:-9], gzip.compress(b"")[:5]],
    ids=["empty", "text", "cut", "header only"],
)
def test_a_file_that_is_no_whole_gzip_is_refused(damaged: bytes, folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(damaged)
    with pytest.raises(DataDamagedError, match=r"train-images-idx3-ubyte\.gz"):
        data.mnist("train")


def test_one_flipped_label_is_noticed(folder: Path, digits: data.Digits) -> None:
    source = Path(os.environ["TORCHSHIP_DATA"])
    assert source == folder.parent  # the fixture points elsewhere while this test runs
    content = bytearray(b"\x00\x00\x08\x01" + (10_000).to_bytes(4, "big"))
    content += bytes(digits.labels.tolist())
    assert hashlib.sha256(content).hexdigest() == data.FILES["test"][1].content
    content[4321] ^= 1
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(content)))
    images = b"\x00\x00\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (10_000, 28, 28))
    images += digits.images.numpy().tobytes()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, 1))
    with pytest.raises(DataDamagedError, match=r"t10k-labels-idx1-ubyte\.gz: SHA-256"):
        data.mnist("test")


def test_a_download_is_checked_kept_and_not_repeated(
    cache: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, content = gzip.compress(b"12345678" + bytes([3, 1, 4])), b"12345678" + bytes([3, 1, 4])
    file = data.DataFile(
        "mnist",
        "small.gz",
        8,
        hashlib.sha256(packed).hexdigest(),
        hashlib.sha256(content).hexdigest(),
    )
    (mirror / "small.gz").write_bytes(packed)
    assert data.read_values(file).tolist() == [3, 1, 4]
    assert os.listdir(cache) == ["small.gz"]
    monkeypatch.setattr(data, "MIRRORS", {"mnist": ()})
    (mirror / "small.gz").unlink()
    with pytest.raises(DataMissingError):
        data.read_values(file)
    monkeypatch.setattr(data, "MIRRORS", {"mnist": ("http://127.0.0.1:9/",)})
    assert data.read_values(file).tolist() == [3, 1, 4]


def test_a_download_that_differs_is_refused_and_not_kept(cache: Path, mirror: Path) -> None:
    (mirror / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataMissingError) as raised:
        data.mnist("test")
    assert "hash" in str(raised.value)
    assert "set TORCHSHIP_DATA" in str(raised.value)
    assert os.listdir(cache) == []


def test_without_data_and_network_there_is_one_clear_error(
    cache: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = "http://127.0.0.1:9/"  # the discard port: nothing listens
    monkeypatch.setattr(data, "MIRRORS", {"mnist": (*data.MIRRORS["mnist"], refused)})
    with pytest.raises(DataMissingError) as raised:
        data.mnist("test")
    message = str(raised.value)
    assert message.startswith(
        "t10k-images-idx3-ubyte.gz is not in the cache and cannot be downloaded; "
        "set TORCHSHIP_DATA to a folder that holds mnist/t10k-images-idx3-ubyte.gz"
    )
    assert "404" in message
    assert refused in message
    assert raised.value.exit_code == 4


def test_the_real_names_are_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("TORCHSHIP_DATA"):
        pytest.skip("TORCHSHIP_DATA is not set: no names to read")
    names = data.names()
    assert (len(names), names[0], names[-1], max(map(len, names))) == (32_033, "emma", "zzyzx", 15)
    (tmp_path / "names.txt").write_text("\n".join(names[1:]))
    monkeypatch.setenv("TORCHSHIP_DATA", str(tmp_path))
    with pytest.raises(DataDamagedError, match=r"names\.txt: SHA-256 .* expected 0a30b5557f192f32"):
        data.names()


def test_names_are_downloaded_beside_the_digits(cache: Path, mirror: Path) -> None:
    digest = hashlib.sha256(b"anna\nbo\n").hexdigest()
    file = data.DataFile("", "names.txt", 0, digest, digest)
    (mirror / "names.txt").write_bytes(b"anna\nbo\n")
    assert data.names(file) == ["anna", "bo"]
    assert (cache.parent / "names.txt").exists()
