"""The server does what its OpenAPI document says: schemathesis, which makes up the requests."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

# Not asked: that every request of the schema is accepted. JSON Schema cannot say that `data` has as
# many values as `shape` says; the examples, which have, reach every model.
NOT_ASKED = "positive_data_acceptance"

# These start compilers and every runtime: test_verify.py and test_archive_routes.py have a few.
SLOW = "/(verify|archive/wasm/.*)$"

# With a header length of 0 any body is a tensor's bytes, so that no body breaks its schema; what a
# header allows of a body is nothing that OpenAPI can say. test_raw.py has these requests.
HOOKS = """
import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    if str((case.headers or {}).get("Inference-Header-Content-Length")) == "0":
        case.headers["Inference-Header-Content-Length"] = "1"
"""


def test_the_server_behaves_as_its_openapi_document(server: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.har"
    (tmp_path / "hooks.py").write_text(HOOKS)
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json",
         "--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1",
         "--exclude-checks", NOT_ASKED, "--exclude-path-regex", SLOW, "--no-color",
         "--report", "har",
         "--report-har-path", str(report)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    entries = json.loads(report.read_text())["log"]["entries"]
    answers = Counter(
        (e["request"]["method"], e["request"]["url"].removeprefix(server.url).split("?")[0],
         e["response"]["status"])
        for e in entries
    )  # fmt: skip
    assert not [found for found in answers if found[2] >= 500]
    reached = {path for (method, path, status) in answers if (method, status) == ("POST", 200)}
    for model in ("tiny", "nested", "exact", "logarithm", "memory", "slow"):
        assert f"/v2/models/{model}/infer" in reached, answers
    assert {200, 400, 404, 405} <= {status for _, _, status in answers}
    assert len(entries) > 1000
