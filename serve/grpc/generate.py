"""Makes the descriptor and the types of the messages from `inference.proto`.

`python -m torchship.serve.grpc.generate` writes them beside it; it needs grpcio-tools. A test
compares what is there with what this makes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).parent
PROTO = "inference.proto"
DESCRIPTOR, TYPES = "inference.binpb", "inference_pb2.pyi"


def generated(proto: Path) -> dict[str, bytes]:
    """Return the files that protoc makes of a `.proto` file, by name.

    Raises:
        RuntimeError: protoc refuses it; it has said why on standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        descriptor = Path(folder) / DESCRIPTOR
        arguments = [
            "protoc",
            f"--proto_path={proto.parent}",
            f"--descriptor_set_out={descriptor}",
            f"--pyi_out={folder}",
            proto.name,
        ]
        if protoc.main(arguments):  # type: ignore[no-untyped-call]
            raise RuntimeError(f"protoc refuses '{proto.name}'")
        return {name: (Path(folder) / name).read_bytes() for name in (DESCRIPTOR, TYPES)}


def main() -> None:
    """Write the files beside this module."""
    for name, content in generated(HERE / PROTO).items():
        (HERE / name).write_bytes(content)


if __name__ == "__main__":
    main()
