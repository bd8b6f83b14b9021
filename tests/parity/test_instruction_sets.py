"""Archives that were made here agree on every instruction set that LibTorch and its BLAS have."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from torchship.cpp_runner.binary import runner_path
from torchship.models import registry

# What LibTorch, MKL and oneDNN take for the CPU's abilities.
CAPABILITIES = {
    "no AVX2": {"ATEN_CPU_CAPABILITY": "default"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "no AVX2, nor in the BLAS": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}


@pytest.fixture(scope="module", params=registry.names())
def archive(request: pytest.FixtureRequest, model_archive: Callable[[str], Path]) -> Path:
    return model_archive(request.param)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_golden_cases_agree(capability: str, archive: Path) -> None:
    done = subprocess.run(
        [str(runner_path()), "verify", str(archive)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | CAPABILITIES[capability],
    )
    wrong = [line for line in done.stdout.splitlines() if "NO:" in line]
    assert done.returncode == 0, "\n".join(wrong) + done.stderr
