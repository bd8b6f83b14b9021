"""A server that is started in a folder to which others may write."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from served import Process
from torchship.serve.runtime import stop
from wire import ask, post

NUMBERS = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[70000],"data":[%b]}]}'
SERVE = "from torchship.__main__ import main\nraise SystemExit(main())\n"


def test_nothing_of_the_current_folder_is_run(
    tmp_path: Path, make_archive: Callable[..., Path]
) -> None:
    """Neither in the processes with the models, nor in those for large JSON."""
    archive = make_archive("logarithm")
    programs, folder = tmp_path / "programs", tmp_path / "current"
    programs.mkdir()
    folder.mkdir()
    (programs / "torchship").write_text(SERVE)  # as it is installed
    trap = f"open({str(tmp_path / 'run')!r}, 'a').write(__name__)\n"
    for name in ("json", "numpy", "orjson", "socket", "torch", "torchship"):
        (folder / f"{name}.py").write_text(trap)
    command = [sys.executable, str(programs / "torchship"), "serve", "--port", "0", str(archive)]
    popen = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    server = Process(popen)
    try:
        server.url = server.line().removeprefix("listening on ")
        assert server.line() == "ready: logarithm/1"
        body = NUMBERS % b",".join([b"0.00"] * 70_000)
        assert ask(server, post("logarithm", body)).status == 400  # logarithms of zero
        assert not (tmp_path / "run").exists()
    finally:
        stop(popen)
