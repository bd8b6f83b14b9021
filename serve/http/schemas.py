"""The shapes of the protocol's messages, for the OpenAPI document alone.

Nothing is parsed with these: `protocol` does that, faster and with better messages.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from torchship.serve.protocol.tensors import DATATYPES, MAX_RANK

Datatype = Annotated[str, Field(json_schema_extra={"enum": [*DATATYPES]})]
Parameters = dict[str, Any]


class Error(BaseModel):
    """What is wrong: what came, and what was expected."""

    error: str


class ServerMetadata(BaseModel):
    """The server's name, version and protocol extensions."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The process runs."""

    live: bool


class Ready(BaseModel):
    """Every archive is live."""

    ready: bool


class ModelReady(BaseModel):
    """One model is live."""

    name: str
    version: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor of a signature; -1 stands for a size that is open."""

    name: str
    datatype: Datatype
    shape: list[int]
    optional: bool = False


class MethodMetadata(BaseModel):
    """What a method takes and gives."""

    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelParameters(BaseModel):
    """Facts about a model: what runs it, LibTorch or compiled code."""

    runtime: Annotated[str, Field(json_schema_extra={"enum": ["libtorch", "native"]})]


class ModelMetadata(BaseModel):
    """A model; `inputs` and `outputs` are those of `forward`."""

    name: str
    versions: list[str]
    platform: str
    parameters: ModelParameters
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    methods: dict[str, MethodMetadata] = {}


class TensorConfig(BaseModel):
    """A tensor in the words of Triton's model configuration."""

    name: str
    data_type: str
    dims: list[int]
    optional: bool = False


class ModelConfig(BaseModel):
    """Triton's model configuration, of `forward`."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class IndexRequest(BaseModel):
    """Which archives to list: all, or those that are ready."""

    ready: bool = False


class IndexEntry(BaseModel):
    """An archive and what became of it.

    `version` is missing while it could not be read, `sha256` while it does not answer.
    """

    name: str
    version: str = ""
    state: Annotated[str, Field(json_schema_extra={"enum": ["LOADING", "READY", "UNAVAILABLE"]})]
    reason: str = ""
    sha256: str = ""


class Duration(BaseModel):
    """How many there were, and how long all of them took together."""

    count: int
    ns: int


class BatchStatistics(BaseModel):
    """The calls of a model with one number of rows."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(BaseModel):
    """A model's figures in Triton's form; `last_inference` is in milliseconds since the epoch."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, Duration]
    batch_stats: list[BatchStatistics]


class Statistics(BaseModel):
    """The figures of models."""

    model_stats: list[ModelStatistics]


class RequestInput(BaseModel):
    """An input: `data` in row-major order, flat or nested, or `parameters.binary_data_size`.

    Of FP32 and FP64 the strings "NaN", "Infinity" and "-Infinity" are values too.
    """

    name: str
    datatype: Datatype
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_RANK)]
    parameters: Parameters | None = None
    data: list[Any] = []


class RequestOutput(BaseModel):
    """An output that is asked for; `parameters.binary_data` says how it travels.

    `parameters.non_finite` says what values become that JSON has no numbers for: `string` for
    "NaN", "Infinity" and "-Infinity", `null`, or `error`, the default, which refuses the request.
    """

    name: str
    parameters: Parameters | None = None


class InferenceRequest(BaseModel):
    """A request: its inputs, and which outputs are wanted (all when none is named).

    `parameters.non_finite` is for all outputs that do not say it themselves.
    """

    id: str | None = None
    parameters: Parameters | None = None
    inputs: list[RequestInput]
    outputs: list[RequestOutput] | None = None


class ResponseOutput(BaseModel):
    """An output: `data`, flat and row-major, or `parameters.binary_data_size`."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: Parameters | None = None
    data: list[Any] = []


class InferenceResponse(BaseModel):
    """An answer: who gave it, and its outputs."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


class ChangeRequest(BaseModel):
    """How to load or unload a model; the body may be left out."""

    parameters: Parameters | None = None


class Changed(BaseModel):
    """It was done; there is nothing more to say."""


class ProvedRuntime(BaseModel):
    """A runtime that reproduced the golden cases; `worst` is its largest absolute difference."""

    runtime: str
    worst: float
    cases: int
    outputs: int


class ArchiveProof(BaseModel):
    """When golden cases were reproduced, and by what."""

    when: datetime
    runtimes: list[ProvedRuntime]


class ArchiveDocument(BaseModel):
    """An archive: its manifest as docs/archive.md has it, its file, and what proves it."""

    manifest: dict[str, Any]
    sha256: str
    bytes: int
    proof: ArchiveProof


class SequenceCount(BaseModel):
    """How many sequences are live, and how many may be."""

    live: int
    most: int
