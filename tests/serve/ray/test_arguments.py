"""What an application on Ray is made of, and what is refused before a cluster is asked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from served import make
from torchship.script.errors import ArchiveError, UsageError
from torchship.serve.ray.arguments import read_arguments
from torchship.serve.ray.deploy import Place, deploy
from torchship.serve.ray.packing import pack


def test_serve_run_gives_every_argument_as_text() -> None:
    arguments, settings = read_arguments(
        {
            **{"models": "a.pt,b", "replicas": "2", "max_replicas": "4", "ship": "false"},
            **{"num_cpus": "0.5", "max_batch": "8", "cors_origin": "http://a,http://b"},
            **{"redis": "redis://cache:6379/0"},
        }
    )
    assert arguments.models == ("a.pt", "b")
    assert (arguments.replicas, arguments.max_replicas, arguments.ship) == (2, 4, False)
    assert arguments.num_cpus == 0.5
    assert settings.max_batch == 8
    assert settings.cors_origin == ("http://a", "http://b")
    assert settings.state == "redis://cache:6379/0"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "argument 'models' is missing: expected archives, folders"),
        ({"models": ""}, "argument 'models': .* at least 1 item"),
        ({"models": "a", "replica": 2}, r"unknown argument 'replica' \(did you mean 'replicas'"),
        ({"models": "a", "port": 1}, "setting 'port' is of `torchship serve`, and not of a rep"),
        ({"models": "a", "replicas": 0}, "argument 'replicas': .*, got 0"),
        ({"models": "a", "num_cpus": "nan"}, "argument 'num_cpus': .* finite"),
        ({"models": "a", "max_batch": 0}, "setting 'max_batch': .*, got 0"),
        (
            {"models": "a", "replicas": 3, "max_replicas": 2},
            "max_replicas is 2: expected at least 3",
        ),
        ({"models": "a", "redis": "r", "state": "none"}, "redis and state were both given"),
        ({"models": "a", "redis": "http://u:p@h"}, r"setting 'state': .*, got 'http://\*\*\*@h'"),
    ],
)
def test_what_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_arguments(given)


def packed(**given: object) -> tuple[str, ...]:
    return pack(*read_arguments(given)).names


def test_state_needs_a_store_for_all_replicas(tmp_path: Path) -> None:
    make(tmp_path, "memory")
    with pytest.raises(UsageError, match=r"each of 2 replicas would .* give --redis redis://host"):
        packed(models=str(tmp_path), max_replicas=2)
    assert packed(models=str(tmp_path)) == ("memory",)
    assert packed(models=str(tmp_path), replicas=2, state="none") == ("memory",)
    assert packed(models=str(tmp_path), replicas=2, redis="redis://h/0") == ("memory",)


def test_archives_are_checked_before_a_cluster_gets_them(tmp_path: Path) -> None:
    path = make(tmp_path, "tiny")
    again = make(tmp_path, "tiny", file="again.pt")
    with pytest.raises(UsageError, match=r"'tiny' version '1' is in '.*again\.pt' and in '.*tiny"):
        packed(models=str(tmp_path))
    again.unlink()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ArchiveError, match=r"'tiny-1\.pt'"):
        packed(models=str(tmp_path))
    with pytest.raises(UsageError, match="is not there"):
        packed(models=str(tmp_path / "none"))


def test_the_extra_is_named_where_it_is_missing() -> None:
    program = "import sys; sys.modules['ray'] = None; import torchship.__main__ as m; m.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "ray", "deploy", "models/"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    message = "torchship: error: `torchship ray` needs Ray: pip install 'torchship[ray]'\n"
    assert done.stderr == message


def test_a_cluster_that_is_not_there() -> None:
    place = Place("name", "127.0.0.1:1", "/", None, None, None, False, 1.0)
    with pytest.raises(UsageError, match=r"there is no Ray cluster at '127\.0\.0\.1:1'"):
        deploy({"models": "."}, place)


@pytest.mark.parametrize("prefix", ["", "models", "/models/", "//", "/{model}"])
def test_a_prefix_that_is_no_path(prefix: str) -> None:
    place = Place("name", "127.0.0.1:1", prefix, None, None, None, False, 1.0)
    with pytest.raises(UsageError, match=f"--route-prefix: .*, got '{re.escape(prefix)}'"):
        deploy({"models": "."}, place)
