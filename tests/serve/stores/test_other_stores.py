"""Google Cloud Storage, by its emulator, and the Hugging Face Hub: the same as S3.

Azure's emulator is large and needs node: it was tried by hand, see docs/stores.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hub import Hub, running_hub
from ports import held_port
from torchship.serve.errors import NotInStoreError
from torchship.serve.stores.addresses import read_address
from torchship.serve.stores.fetching import fetch
from torchship.serve.stores.opening import open_store

OFFLINE = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "", "NO_GCE_CHECK": "true"}


@pytest.fixture(scope="module")
def google() -> Iterator[None]:
    emulator: Any = import_module("gcp_storage_emulator.server")
    with held_port() as port, pytest.MonkeyPatch.context() as patch:
        server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
        server.start()
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        for name, value in OFFLINE.items():
            patch.setenv(name, value)
        yield
        server.stop()


def test_google_cloud_storage(google: None, tmp_path: Path) -> None:
    address = read_address("gs://bucket/models")
    store = open_store(address)
    assert dict(store.listing()) == {}
    (tmp_path / "first").write_bytes(b"first")
    (tmp_path / "second").write_bytes(b"SECOND")
    for name in ("a.pt", "m/1/model.pt", "notes.txt"):
        store.put(tmp_path / "first", name, lambda size: None)
    before = store.listing()
    assert sorted(before) == ["a.pt", "m/1/model.pt"]
    assert store.listing() == before
    fetch(store, address, before["a.pt"], tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"first"
    store.put(tmp_path / "second", "a.pt", lambda size: None)
    after = store.find("a.pt")
    assert after is not None and after.tag != before["a.pt"].tag
    assert open_store(read_address("gs://bucket/models/a.pt")).listing() == {"a.pt": after}
    store.remove("a.pt")
    assert store.find("a.pt") is None
    assert sorted(store.listing()) == ["m/1/model.pt"]
    with pytest.raises(NotInStoreError, match="gs://other/models: it is not there"):
        open_store(read_address("gs://other/models")).listing()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


PROGRAM = """
import json, sys
from pathlib import Path
from torchship.serve.errors import StoreError
from torchship.serve.stores.addresses import read_address
from torchship.serve.stores.fetching import fetch
from torchship.serve.stores.opening import open_store

address = read_address(sys.argv[1])
try:
    store = open_store(address)
    files = store.listing()
    for number, file in enumerate(files.values()):
        fetch(store, address, file, Path(sys.argv[2]) / str(number))
    texts = {name: (Path(sys.argv[2]) / str(n)).read_text() for n, name in enumerate(files)}
    print(json.dumps([texts, {name: file.tag for name, file in files.items()}]))
except StoreError as error:
    print(json.dumps(str(error)))
"""


def asked(hub: Hub, address: str, folder: Path) -> Any:
    """Return what a process with the hub's address gets: the library reads it at its import."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, address, folder],
        env={**os.environ, **OFFLINE, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home")},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"models/a.pt": b"first", "models/m/1/model.pt": b"model", "b.pt": b"other"}
    files, tags = asked(hub, "hf://user/repo/models", tmp_path)
    assert files == {"a.pt": "first", "m/1/model.pt": "model"}
    hub.files["models/a.pt"] = b"FIRST"
    files, changed = asked(hub, "hf://user/repo/models@main", tmp_path)
    assert files["a.pt"] == "FIRST"
    assert changed["a.pt"] != tags["a.pt"] and changed["m/1/model.pt"] == tags["m/1/model.pt"]
    assert asked(hub, "hf://user/repo/b.pt", tmp_path)[0] == {"b.pt": "other"}
    assert asked(hub, "hf://user/repo/c.pt", tmp_path)[0] == {}
    assert asked(hub, "hf://user/repo", tmp_path)[0] == {"b.pt": "other"}
    assert "hf://user/other: it is not there" in asked(hub, "hf://user/other", tmp_path)
