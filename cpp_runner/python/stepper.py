"""A method of an archive, step by step, in a running `torchship-runner`: no Python in that process.

The binary carries the recurrent state from step to step; only inputs and outputs pass the pipes, as
JSON lines.
"""

from __future__ import annotations

import orjson
import torch

from torchship.cpp_runner.child import Child
from torchship.script.errors import UsageError
from torchship.script.format import dtypes
from torchship.script.format.nodes import TensorNode, leaves
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import Archive


class Stepper(Child):
    """`torchship-runner run ARCHIVE --method METHOD --input -`; use it in a `with`.

    Not thread-safe: one step after the other.
    """

    def __init__(self, archive: Archive, method: str) -> None:
        """Start the binary, which reads and checks the archive by itself.

        Raises:
            UsageError: the binary is not installed.
        """
        signature = archive.require_manifest().methods[method]
        state = {entry.output for entry in signature.state}
        self._outputs = {
            leaf.name: dtypes.BY_NAME[leaf.dtype].torch
            for leaf in leaves(signature.outputs)
            if isinstance(leaf, TensorNode) and leaf.name not in state
        }
        super().__init__("run", str(archive.path), "--method", method, "--input", "-")

    def __enter__(self) -> Stepper:
        """Return itself."""
        return self

    def send(self, inputs: Flat) -> None:
        """Send one step's inputs; the binary works on them while this process goes on.

        State among the inputs takes the place of the carried one.
        """
        self.write(
            orjson.dumps(
                {name: tensor.numpy() for name, tensor in inputs.items()},
                option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
            )
        )

    def receive(self) -> Flat:
        """Return the outputs of the step that was sent, the carried state left out.

        Raises:
            UsageError: the binary refused the inputs, or the model raised: the state is as it was
                before, and the next step may be sent. Or the binary ended, for it refused the
                archive. With its message.
        """
        values = self._read()
        if isinstance(refused := values.get("error"), str):
            raise UsageError(f"torchship-runner run: {refused}")
        return {name: torch.tensor(values[name], dtype=t) for name, t in self._outputs.items()}
