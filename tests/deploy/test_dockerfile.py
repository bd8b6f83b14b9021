"""What the Dockerfile and its scripts say, without running them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import page_assets
import pytest
from build_image import DOCKERFILE, Builder, Stage, copied_by, stages

ROOT = Path(__file__).resolve().parents[2]
FOUND = {stage.name: stage for stage in stages(DOCKERFILE, {})}
FINAL = ("server", "runner")


def said(stage: Stage, name: str) -> list[str]:
    return [i.value for i in stage.instructions if i.name == name]


def test_hadolint_has_nothing_to_say_of_it() -> None:
    done = subprocess.run(
        ["hadolint", str(DOCKERFILE)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", FINAL)
def test_an_image_says_who_runs_it_and_how_it_ends(name: str) -> None:
    stage = FOUND[name]
    [user] = said(stage, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)  # runAsNonRoot wants a number
    assert said(stage, "STOPSIGNAL") == ["SIGTERM"]
    assert len(said(stage, "HEALTHCHECK")) == len(said(stage, "ENTRYPOINT")) == 1
    [labels] = said(stage, "LABEL")
    for key in ("title", "description", "licenses", "version"):
        assert f"org.opencontainers.image.{key}=" in labels


def test_the_last_stage_is_the_server() -> None:
    assert list(FOUND)[-1] == "server"
    assert said(FOUND["server"], "ENTRYPOINT") == ['["torchship"]']


@pytest.mark.parametrize("name", FINAL)
def test_an_image_takes_no_compiler_with_it(name: str) -> None:
    assert FOUND[name].base == "base"
    copied = [v for v in said(FOUND[name], "COPY") if v.startswith("--from=")]
    assert all(v.startswith("--from=site /opt/") for v in copied)


def test_every_step_is_a_script_that_is_there() -> None:
    for stage in FOUND.values():
        for command in said(stage, "RUN"):
            for step in command.split("&&"):
                [script] = re.findall(r"^\s*/steps/(\w+\.sh)\b", step)
                assert (ROOT / "deploy" / "image" / script).stat().st_mode & 0o111


def test_images_name_no_host() -> None:
    for stage in FOUND.values():
        assert stage.base in FOUND or re.fullmatch(r"[a-z]+:[\w.-]+", stage.base)


def test_what_is_copied_is_what_git_knows() -> None:
    """So that no environment, build folder or secret beside the sources gets into a layer.

    The page's libraries do, so that an image need not fetch them.
    """
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    copied = set(copied_by(ROOT))
    fetched = {f"ui/{name}" for name in (*page_assets.FILES, page_assets.FETCHED)}
    assert copied <= {*names, *fetched}
    assert {"pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "src/torchship/serve",
            "deploy/install_torch.py", "cpp_runner/CMakeLists.txt"} <= copied  # fmt: skip
    for room in ("models", "script", "native", "serve", "ui", "cpp_runner", "src", "deploy"):
        missing = {n for n in names if n.startswith(f"{room}/")} - copied
        assert not missing


def test_unknown_instructions_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("RUN true\nFROM debian:12-slim\n")
    with pytest.raises(Exception, match="comes before FROM"):
        Builder(file, tmp_path, {}, {})
