"""Golden cases through a client, in both forms that a protocol has for tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch

from torchship.script.exporting.runtimes import Result, median_us
from torchship.script.format.golden import Call, Case
from torchship.script.format.manifest import Method
from torchship.script.format.tree import Flat
from torchship.script.runtime.agreement import check_case
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import batch_inputs

# Neither JSON nor typed contents have FP16 and BF16 (Open Inference Protocol V2, binary tensors).
WITHOUT_READABLE_FORM = (torch.float16, torch.bfloat16)


class InferringClient(Protocol):
    """A client of a server, over whatever transport."""

    def infer(
        self,
        name: str,
        signature: Method,
        inputs: Mapping[str, torch.Tensor],
        method: str,
        binary: bool,
        version: str | None,
    ) -> Flat:
        """Run a method of a model on the server; inputs and outputs are flat."""


def check_both_forms(
    runtime: str,
    archive: Archive,
    client: InferringClient,
    version: str | None,
    has_readable_form: Callable[[Case], bool],
) -> Result:
    """Run the golden cases binary, and those that have a readable form (JSON, typed) in that, too.

    Raises:
        TorchShipError: the server refuses a request; the message says why.
    """
    manifest = archive.require_manifest()

    def caller(binary: bool) -> Call:
        def call(method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
            signature = manifest.methods[method]
            return client.infer(manifest.name, signature, inputs, method, binary, version)

        return call

    differences = []
    for number, case in enumerate(archive.golden):
        differences += check_case(manifest, number, case, caller(binary=True))
        if has_readable_form(case):
            differences += check_case(manifest, number, case, caller(binary=False))
    method, inputs = batch_inputs(manifest, archive.golden, 1)
    return Result(runtime, differences, median_us(lambda: caller(binary=True)(method, inputs)))


def tensors_of(case: Case) -> Iterator[torch.Tensor]:
    """Yield the inputs and the golden outputs of all steps."""
    for step in case.steps:
        yield from step.inputs.values()
        yield from step.outputs.values()
