"""`verify` for clients of a server: who may have it run, its lines, and its end."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from served import make
from torchship.serve.errors import BusyError, ForbiddenError
from torchship.serve.service.api_keys import KeyRing, read_api_keys
from torchship.serve.service.turns import Turn
from torchship.serve.service.verification import Verification
from torchship.serve.settings import Settings

Launch = Callable[..., Any]

psutil: Any = import_module("psutil")  # it has no types

ADMIN, OTHER = "the-key-of-an-admin", "the-key-of-another"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"admin:{ADMIN}\nother:{OTHER}\n")
    return path


@pytest.fixture(scope="module")
def served_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("served"), "tiny")


@pytest.fixture(scope="module")
def pair(launch: Launch, keys: Path, served_file: Path) -> Iterator[Any]:
    """Two workers, which ask for keys."""
    options = ("--workers", 2, "--api-keys", keys, "--access-log", "all")
    with launch(*options, served_file) as process:
        assert process.line().startswith("ready")
        yield process


def asking(server: Any, key: str | None = ADMIN) -> httpx.Client:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=server.url, trust_env=False, timeout=120, headers=headers)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines() if line]


def verifying(server: Any) -> list[Any]:
    """The processes that were started for a client, as `psutil.Process`.

    What one of them forks has its command line too, until it runs another program.
    """
    found = []
    for process in server.below():
        with suppress(psutil.NoSuchProcess):
            if "--json-lines" in process.cmdline() and process.parent() not in found:
                found.append(process)
    return found


def test_each_runtime_has_a_line_as_it_begins_and_as_it_ends(pair: Any) -> None:
    with asking(pair) as client:
        assert client.get("/site.json").json()["verify"] is True
        names = ("eager", "script", "http")
        answer = client.post("/v2/models/tiny/verify", params={"runtime": names})
        first, *between, last = events(answer)
        assert first == {
            "event": "begin",
            "name": "tiny",
            "version": "1",
            "golden_cases": 3,
            "runtimes": ["eager", "script", "HTTP"],
        }
        assert [(e["event"], e["runtime"], e["state"]) for e in between] == [
            ("runtime", name, state) for name in first["runtimes"] for state in ("running", "done")
        ]
        eager, script, http = between[1::2]
        assert (eager["skipped"], eager["outputs"]) == (True, [])
        assert eager["error"].startswith("the archive names 'served:make', which is not ours")
        for done in (script, http):
            assert (done["agreed"], done["error"], done["skipped"]) == (True, "", False)
            assert done["p50_us"] > 0
            assert [(o["method"], o["output"]) for o in done["outputs"]] == [
                ("forward", "logits"),
                ("act", "action"),
            ]
            for output in done["outputs"]:
                assert (output["max_abs"], output["max_rel"], output["max_ulp"]) == (0, 0, 0)
                assert output["bit_identical"]
        assert last == {"event": "verdict", "agreed": True, "first_difference": "", "note": ""}
        # Three runs of each of three cases as bytes and as JSON, and a measured method, at least.
        stats = client.get("/v2/models/tiny/stats").json()["model_stats"]
        assert stats[0]["inference_count"] > 300


def test_only_the_key_named_admin_may(pair: Any) -> None:
    for place in ("tiny", "tiny/versions/1", "nothing"):
        with asking(pair, OTHER) as client:
            answer = client.post(f"/v2/models/{place}/verify")
            assert answer.status_code == 403
            assert answer.json() == {
                "error": "API key 'other' may not run verify: expected the key named 'admin'"
            }
        with asking(pair, None) as client:
            assert client.post(f"/v2/models/{place}/verify").status_code == 401
    with asking(pair) as client:
        assert client.post("/v2/models/nothing/verify").status_code == 404
        assert client.post("/v2/models/tiny/versions/2/verify").status_code == 404
        assert client.get("/v2/models/tiny/verify").status_code == 405


def test_one_runs_at_a_time_and_ends_when_its_client_leaves(pair: Any) -> None:
    with asking(pair) as client, client.stream("POST", "/v2/models/tiny/verify") as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["event"] == "begin"
        below = verifying(pair)
        assert below
        for process in below:
            assert ADMIN not in " ".join(process.cmdline())
            process.suspend()  # so that it cannot end by itself
        refused = set()
        for _ in range(16):  # each a connection of its own, which either worker may take
            with asking(pair) as other:
                said = other.post("/v2/models/tiny/verify")
                refused.add((said.status_code, said.json()["error"]))
        assert refused == {
            (429, "verify runs already, and one runs at a time: ask again when it has ended")
        }
        # With all lines read, what the client's system sends as it leaves is no more than what a
        # client sends that has only closed its sending side.
        while next(lines):
            pass
    _, alive = psutil.wait_procs(below, timeout=30)
    for process in alive:
        process.kill()
    assert not alive
    while True:  # until the server has seen it, too
        with asking(pair) as client:
            answer = client.post("/v2/models/tiny/verify", params={"runtime": "script"})
            if answer.status_code != 429:
                break
    assert events(answer)[-1]["agreed"] is True
    assert verifying(pair) == []
    said = pair.stderr("/v2/models/tiny/verify")
    assert ADMIN not in said


def test_another_file_than_the_live_one_is_not_verified(pair: Any, served_file: Path) -> None:
    live = served_file.read_bytes()
    try:
        make(served_file.parent, "tiny", "2", file=served_file.name)
        with asking(pair) as client:
            (only,) = events(client.post("/v2/models/tiny/verify", params={"runtime": "script"}))
        assert only["event"] == "error"
        assert only["error"].startswith("'tiny-1.pt' has the SHA-256 ")
    finally:
        served_file.write_bytes(live)


def test_the_route_is_described(pair: Any) -> None:
    with asking(pair) as client:
        paths = client.get("/openapi.json").json()["paths"]
    for start in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        responses = paths[f"{start}/verify"]["post"]["responses"]
        assert {"200", "401", "403", "404", "429", "503"} <= responses.keys()
        assert "application/x-ndjson" in responses["200"]["content"]


def ring(path: Path, text: str) -> KeyRing:
    path.write_text(text)
    return KeyRing(read_api_keys(path))


@pytest.mark.parametrize(
    ("said", "available"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "192.0.2.1"}, False),
        ({"root_path": "/models"}, False),
        ({"forwarded_allow_ips": "127.0.0.1"}, False),
        ({"host": "0.0.0.0", "ui_verify": True}, True),
        ({"root_path": "/models", "ui_verify": True}, True),
        ({"ui_verify": False}, False),
    ],
)
def test_without_keys_who_is_on_this_machine_may(said: dict[str, Any], available: bool) -> None:
    verification = Verification(Settings(**said), None, Turn())
    assert verification.available is available
    if available:
        verification.check(None)
    else:
        with pytest.raises(ForbiddenError, match=r"--ui-verify|--no-ui-verify"):
            verification.check(None)


def test_with_keys_one_must_be_named_admin(tmp_path: Path) -> None:
    known, unknown = f"admin:{ADMIN}\nother:{OTHER}", f"other:{OTHER}"
    for host in ("127.0.0.1", "0.0.0.0"):
        for verify in (None, True):
            settings = Settings(host=host, ui_verify=verify)
            keys = ring(tmp_path / "keys", known)
            verification = Verification(settings, keys, Turn())
            assert verification.available
            verification.check("admin")
            for name in ("other", None):
                with pytest.raises(ForbiddenError, match="expected the key named 'admin'"):
                    verification.check(name)
            keys.renew(read_api_keys(_written(tmp_path / "keys", unknown)))
            assert not verification.available
            with pytest.raises(ForbiddenError, match="--api-keys has none"):
                verification.check("admin")
    off = Verification(Settings(ui_verify=False), ring(tmp_path / "keys", known), Turn())
    assert not off.available
    assert not Verification(Settings(), None, None).available  # on Ray


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_turn_is_had_once_in_a_process() -> None:
    with tempfile.TemporaryFile() as file:
        for turn in (Turn(), Turn(file.fileno())):
            for _ in range(2):
                with turn.taken("it"), pytest.raises(BusyError), turn.taken("it"):
                    pass
            with pytest.raises(ValueError, match="mine"), turn.taken("it"):
                raise ValueError("mine")
            with turn.taken("it"):
                pass
