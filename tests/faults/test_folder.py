"""The server does not import code from its current folder, which may be that of the models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from served import Process

LARGE = [0.0001] * 300_000  # as JSON more than what is read on the spot


def test_no_python_of_the_folder_of_models_is_run(make_archive: Any, tmp_path: Path) -> None:
    """Neither by the process that starts workers, nor by those that read large JSON."""
    make_archive("logarithm")
    ran = tmp_path / "ran"
    for module in ("select", "orjson", "uvicorn", "torchship"):
        (tmp_path / f"{module}.py").write_text(f"open({str(ran)!r}, 'w')\nraise SystemExit(1)\n")
    command = [str(Path(sys.executable).with_name("torchship")), "serve", "--port", "0", "."]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as popen:
        server = Process(popen)
        try:
            server.url = server.line().removeprefix("listening on ")
            assert server.line() == "ready: logarithm/1"
            x = {"name": "x", "datatype": "FP32", "shape": [len(LARGE)], "data": LARGE}
            url = f"{server.url}/v2/models/logarithm/infer"
            answer = httpx.post(url, json={"inputs": [x]}, trust_env=False, timeout=60)
            assert answer.status_code == 200
        finally:
            popen.terminate()
    assert not ran.exists()
