"""A method of an archive, step by step, in a running `torchship-runner`: no Python in that process.

The binary carries the recurrent state from step to step; only inputs and outputs pass the pipes, as
JSON lines.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from types import TracebackType

import orjson
import torch

from torchship.cpp_runner.binary import runner_path
from torchship.script import dtypes
from torchship.script.archive import Archive
from torchship.script.errors import UsageError
from torchship.script.nodes import TensorNode, leaves
from torchship.script.tree import Flat

PATIENCE = 10  # seconds until a binary that does not end by itself is killed


class Stepper:
    """`torchship-runner run ARCHIVE --method METHOD --input -`; use it in a `with`.

    Not thread-safe: one step after the other.
    """

    def __init__(self, archive: Archive, method: str) -> None:
        """Start the binary, which reads and checks the archive by itself.

        Raises:
            UsageError: the binary is not installed.
        """
        signature = archive.vouched.methods[method]
        state = {entry.output for entry in signature.state}
        self._outputs = {
            leaf.name: dtypes.BY_NAME[leaf.dtype].torch
            for leaf in leaves(signature.outputs)
            if isinstance(leaf, TensorNode) and leaf.name not in state
        }
        try:
            runner = str(runner_path())
        except FileNotFoundError as error:
            raise UsageError(str(error)) from None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [runner, "run", str(archive.path), "--method", method, "--input", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def __enter__(self) -> Stepper:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the binary: it ends by itself when its input does."""
        self._end()
        self._said.close()

    def send(self, inputs: Flat) -> None:
        """Send one step's inputs; the binary works on them while this process goes on.

        State among the inputs takes the place of the carried one.
        """
        line = orjson.dumps(
            {name: tensor.numpy() for name, tensor in inputs.items()},
            option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
        )
        with contextlib.suppress(BrokenPipeError):  # `receive` says why
            self._in.write(line)
            self._in.flush()

    def receive(self) -> Flat:
        """Return the outputs of the step that was sent, the carried state left out.

        Raises:
            UsageError: the binary ended: it refused the archive or the inputs, or the model raised;
                with its message.
        """
        answer = self._out.readline()
        if not answer:
            raise UsageError(f"torchship-runner run {self._last_words()}")
        values = orjson.loads(answer)
        return {name: torch.tensor(values[name], dtype=t) for name, t in self._outputs.items()}

    def _last_words(self) -> str:
        code = self._end()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f"ended with exit code {code}: {lines[-1] if lines else 'it said nothing'}"

    def _end(self) -> int:
        with contextlib.suppress(BrokenPipeError):
            self._in.close()
        self._out.close()
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
