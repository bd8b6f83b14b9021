"""Golden cases go to a server in both forms of tensors, where they have both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from torchship.script.format.golden import Case
from torchship.script.format.manifest import Method
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import Archive, open_archive
from torchship.serve.client.both_forms import check_both_forms
from torchship.serve.client.grpc_runtime import fits_typed
from torchship.serve.client.http_runtime import fits_json


class Asked:
    """A client that answers from the archive, and notes what it was asked for."""

    def __init__(self, archive: Archive) -> None:
        self.program = archive.program()
        self.calls: list[tuple[str, str | None, bool]] = []

    def infer(
        self,
        name: str,
        signature: Method,
        inputs: Mapping[str, torch.Tensor],
        method: str,
        binary: bool,
        version: str | None,
    ) -> Flat:
        self.calls.append((method, version, binary))
        return self.program.call(method, inputs)


@pytest.mark.parametrize("fits", [fits_json, fits_typed])
@pytest.mark.parametrize(("name", "forms"), [("tiny", [True, False]), ("half", [True])])
def test_each_case_is_sent_in_each_form_that_it_has(
    name: str, forms: list[bool], fits: Callable[[Case], bool], archives: dict[str, Path]
) -> None:
    archive = open_archive(archives[name])
    client = Asked(archive)
    result = check_both_forms("x", archive, client, "1", fits)
    methods = sorted({case.method for case in archive.golden})
    assert sorted({call[0] for call in client.calls}) == methods
    for method in methods:
        asked = {binary for called, _, binary in client.calls if called == method}
        assert asked == set(forms), method
    assert {version for _, version, _ in client.calls} == {"1"}
    outputs = sum(len(step.outputs) for case in archive.golden for step in case.steps)
    assert len(result.differences) >= outputs * len(forms)
