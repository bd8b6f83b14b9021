from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from torchship.script.format.signing import make_key, sign
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.client.http_runtime import HttpRuntime, fits_json
from torchship.serve.client.local_server import StartError, running_server

MakeArchive = Callable[..., Path]


def wrong(outputs: Flat) -> Flat:
    return {name: value + 1 for name, value in outputs.items()}


def test_the_server_is_ready_within_the_block_and_gone_after(archives: dict[str, Path]) -> None:
    with running_server([archives["half"]]) as url:
        assert httpx.get(f"{url}/v2/health/ready", trust_env=False).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v2/health/live", trust_env=False)


def test_the_server_is_gone_when_the_block_raises(archives: dict[str, Path]) -> None:
    with pytest.raises(KeyError), running_server([archives["half"]]) as url:
        raise KeyError
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v2/health/live", trust_env=False)


def test_refused_archives_are_named_with_their_reasons(make_archive: MakeArchive) -> None:
    bad = [make_archive(name, edit=wrong) for name in ("half", "memory")]
    with (
        pytest.raises(StartError, match=r"half-1.pt: .* 'double'.*; .*memory-1.pt: .*, output"),
        running_server([*bad, make_archive("tiny")]),
    ):
        pass


def test_a_server_that_ends_before_it_is_ready_is_quoted(tmp_path: Path) -> None:
    with (
        pytest.raises(StartError, match=r"exit code 2 before it was ready: .*is not there"),
        running_server([tmp_path / "gone.pt"]),
    ):
        pass


def test_signatures_are_checked_with_trusted_keys(
    make_archive: MakeArchive, tmp_path: Path
) -> None:
    make_key(tmp_path / "key.pem", tmp_path / "key.pub")
    archive = make_archive("half")
    with (
        pytest.raises(StartError, match="is not signed"),
        running_server([archive], tmp_path / "key.pub"),
    ):
        pass
    sign(archive, tmp_path / "key.pem")
    with running_server([archive], tmp_path / "key.pub") as url:
        assert url


@pytest.mark.parametrize("name", ["nested", "half"])
def test_golden_cases_agree_bit_for_bit_over_http(archives: dict[str, Path], name: str) -> None:
    archive = open_archive(archives[name])
    result = HttpRuntime().check(archive)
    assert result.agreed
    assert all(difference.bit_identical for difference in result.differences)
    outputs = sum(len(step.outputs) for case in archive.golden for step in case.steps)
    forms = 2 if all(map(fits_json, archive.golden)) else 1
    assert len(result.differences) == forms * outputs
    assert result.p50_us
