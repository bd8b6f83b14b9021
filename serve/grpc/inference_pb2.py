"""The messages of the protocol, as classes of this module; `inference_pb2.pyi` has their types.

KServe's and Triton's clients put the same names into protobuf's default pool, which has each name
only once in a process. So ours lie in a pool of their own, and any of these clients can be imported
beside this module. Messages can be pickled, which Ray needs, but not a part of one by itself.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

POOL = DescriptorPool()


def _load() -> None:
    files = FileDescriptorSet.FromString(Path(__file__).with_name("inference.binpb").read_bytes())
    for file in files.file:
        POOL.AddSerializedFile(file.SerializeToString())
        for name in [message.name for message in file.message_type]:
            descriptor = POOL.FindMessageTypeByName(f"{file.package}.{name}")
            globals()[name] = GetMessageClass(descriptor)
            _place(descriptor, name)
        for name in [enum.name for enum in file.enum_type]:
            values = EnumTypeWrapper(POOL.FindEnumTypeByName(f"{file.package}.{name}"))
            globals().update({name: values, **dict(values.items())})


def _place(descriptor: Descriptor, name: str) -> None:
    """Say where a class and those inside it are found, as pickle needs to know."""
    kind = GetMessageClass(descriptor)
    kind.__module__, kind.__qualname__ = __name__, name
    for nested in descriptor.nested_types:
        _place(nested, f"{name}.{nested.name}")


_load()

DESCRIPTOR = POOL.FindFileByName("inference.proto")
