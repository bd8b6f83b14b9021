"""The server's settings: flags first, then the environment, then a TOML file, then defaults."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from torchship.script.errors import UsageError
from torchship.serve.stores.addresses import Address, as_given, read_path, redact

PREFIX = "TORCHSHIP_SERVE_"
PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")  # the user and password in a URL
STORE_CACHE_BYTES = 64 << 30

# What Kubernetes sets in every pod for a Service: one named torchship-serve gets our prefix.
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
OF_A_SERVICE = re.compile(r"(.*_)?(service_host|service_port(_.+)?|port_\d+_(tcp|udp|sctp)(_.+)?)")
LINKS_HINT = (
    "; Kubernetes sets such variables for a Service whose name begins with 'torchship-serve': "
    "give the pod `enableServiceLinks: false`, or the Service another name"
)

ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
AccessLog = Literal["none", "errors", "all"]

ServedPath = Annotated[
    Path | Address, BeforeValidator(read_path), PlainSerializer(as_given, when_used="json")
]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def read_networks(text: str) -> list[Network]:
    """Return the networks of a comma-separated list; `*` stands for all addresses.

    Raises:
        ValueError: one of them is neither an address nor a network.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if "*" in parts:
        parts = ["0.0.0.0/0", "::/0"]
    return [ipaddress.ip_network(part) for part in parts]


def is_loopback(host: str) -> bool:
    """Return whether a host is a machine's own address, or the name that always means it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(BaseSettings):
    """All settings: each can be a flag, `TORCHSHIP_SERVE_<NAME>`, or a key of a TOML file.

    In the environment, lists are JSON. `config` names the file; an unknown key in it is an error.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    paths: tuple[ServedPath, ...] = Field(
        default=(),
        description="archives, or folders of *.pt or <name>/<version>/model.pt; also in stores: "
        "s3://, gs://, az://, hf://, https://",
    )
    mode: Literal["fixed", "poll", "explicit"] = Field(
        default="fixed",
        description="fixed: what is there at start; poll: follow the files; explicit: as told",
    )
    poll_seconds: float = Field(
        default=5, gt=0, allow_inf_nan=False, description="between two looks in poll mode"
    )
    load: tuple[str, ...] = Field(
        default=(), description="models that explicit mode loads at start"
    )
    store_cache: Path | None = Field(
        default=None, description="folder of what was fetched from stores; else the user's cache"
    )
    store_cache_bytes: int = Field(
        default=STORE_CACHE_BYTES, ge=1, description="of all archives in that folder"
    )
    store_seconds: float = Field(
        default=30, gt=0, allow_inf_nan=False, description="for which a store may send nothing"
    )
    config: Path | None = Field(default=None, description="TOML file with any of these settings")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port; 0 for any free one")
    grpc_port: int | None = Field(
        default=None, ge=0, le=65535, description="port for gRPC too; 0 for any free one"
    )
    workers: int = Field(default=1, ge=1, description="processes that share the port")
    threads: int = Field(default=1, ge=1, le=1024, description="intra-op threads of each model")
    device: str = Field(default="cpu", description="where models run: cpu, cuda or cuda:NUMBER")
    native: str = Field(
        default="off",
        description="compiled code: off; auto: compile at load; or a folder of libraries",
    )
    place: tuple[str, ...] = Field(
        default=(), description="NAME=DEVICE: where the model of that name runs"
    )
    max_batch: int = Field(default=64, ge=1, description="rows of all requests in one call")
    max_delay_us: int = Field(
        default=0, ge=0, description="microseconds that a request waits for others to join it"
    )
    quick_us: int = Field(
        default=5000,
        ge=0,
        description="a model whose largest batch takes no longer needs no thread of its own",
    )
    max_batch_bytes: int = Field(
        default=64 << 20, ge=1, description="bytes of all inputs in one call, unless one has more"
    )
    max_queue: int = Field(default=4096, ge=1, description="rows that may wait for each model")
    call_seconds: float = Field(
        default=30,
        gt=0,
        allow_inf_nan=False,
        description="for one call of a model; one that takes longer is taken out of service",
    )
    stall_seconds: float = Field(
        default=10,
        gt=0,
        allow_inf_nan=False,
        description="for which a process may answer nobody before another takes its place",
    )
    loads: int = Field(default=2, ge=1, description="archives that are loaded at the same time")
    trusted_keys: Path | None = Field(
        default=None, description="PEM file of Ed25519 public keys: serve only what they signed"
    )
    operators: tuple[Path, ...] = Field(
        default=(), description="folders of operator libraries, beside TORCHSHIP_OPERATORS"
    )
    api_keys: Path | None = Field(
        default=None, description="file of lines name:key[:requests per second]; others get 401"
    )
    max_tensor_bytes: int | None = Field(
        default=None, ge=1, description="largest input tensor, as the model gets it"
    )
    tls_cert: Path | None = Field(
        default=None, description="PEM file of the certificate, and those that vouch for it"
    )
    tls_key: Path | None = Field(
        default=None, description="PEM file of its key, if the certificate's file has none"
    )
    cors_origin: tuple[str, ...] = Field(
        default=(), description="web page's origin that may ask, or * for any"
    )
    header_seconds: float = Field(
        default=10, gt=0, allow_inf_nan=False, description="for a client to send a request's head"
    )
    body_seconds: float = Field(
        default=60, gt=0, allow_inf_nan=False, description="for a client to send its body"
    )
    send_seconds: float = Field(
        default=60, gt=0, allow_inf_nan=False, description="for a client to take an answer"
    )
    max_body_bytes: int = Field(default=64 << 20, ge=1, description="largest request body")
    max_inflight_bytes: int = Field(
        default=512 << 20, ge=1, description="bytes of all request bodies that a process holds"
    )
    root_path: str = Field(
        default="", description="path below which a proxy serves this server: /models"
    )
    forwarded_allow_ips: str = Field(
        default="",
        description="proxies whose X-Forwarded-For is believed: addresses, networks, or *",
    )
    ui: bool = Field(default=True, description="show the page that shows what the models do")
    ui_verify: bool | None = Field(
        default=None,
        description="let clients run verify; else only the API key named admin, or on loopback",
    )
    state: str = Field(
        default="memory",
        pattern=r"^(memory|none|rediss?://.+|unix://.+)$",
        description="where sequences keep their state: memory, none, or redis://host:port/db",
    )
    sequence_idle_seconds: float = Field(
        default=60, gt=0, description="after which an unused sequence is freed"
    )
    max_sequences: int = Field(default=16384, ge=1, description="live sequences")
    drain_seconds: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="between a wish to end and its beginning: not ready, and still serving",
    )
    shutdown_seconds: int = Field(default=30, ge=1, description="for requests in flight to finish")
    otel_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="OTLP/HTTP address that traces are sent to: http://HOST:4318/v1/traces",
    )
    log_format: LogFormat = Field(default="console", description="form of the lines on stderr")
    log_level: LogLevel = Field(default="info", description="what is logged: this and worse")
    access_log: AccessLog = Field(
        default="errors", description="requests that get a line: those that failed, or all"
    )

    @property
    def local_paths(self) -> tuple[Path, ...]:
        """The paths without the addresses of stores, which the supervisor replaces by paths."""
        return tuple(path for path in self.paths if isinstance(path, Path))

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses of stores."""
        return tuple(path for path in self.paths if isinstance(path, Address))

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        if value and not ROOT_PATH.fullmatch(value):
            raise ValueError("expected /NAME or /NAME/NAME, without a / at its end")
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_networks(cls, value: str) -> str:
        try:
            read_networks(value)
        except ValueError as error:
            raise ValueError(f"expected addresses, networks, or *: {error}") from None
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of settings, in order of precedence."""
        file = (env_settings() | init_settings()).get("config")
        if file is None:
            return init_settings, env_settings
        return init_settings, env_settings, _toml(settings_cls, Path(file))


@dataclass(frozen=True)
class SettingInfo:
    """One setting as `--show-config` prints it: its source, and its value without secrets."""

    name: str
    value: object
    source: str
    description: str


def read_settings(given: dict[str, object]) -> Settings:
    """Return the settings; `given` holds those from the command line.

    Raises:
        UsageError: a value is invalid, the file is missing or not TOML, or a key of it or a
            variable `TORCHSHIP_SERVE_…` is not a setting.
    """
    for variable in os.environ:
        name = variable.lower()  # pydantic-settings ignores case
        if name.startswith(PREFIX.lower()):
            name = name.removeprefix(PREFIX.lower())
            _check_name(name, f"the environment's {variable}", _hint(name, os.environ[variable]))
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            _check_name(name, f"'{name}'")
        raise UsageError(
            f"setting '{name}': {first['msg']}, got {without_secrets(first['input'])!r}"
            + _hint(name, str(first["input"]))
        ) from None
    except SettingsError as error:
        raise UsageError(str(error)) from None


def _hint(name: str, value: str) -> str:
    """Return what to do about a variable that Kubernetes has set; for others nothing."""
    return LINKS_HINT if SERVICE_LINK.fullmatch(value) or OF_A_SERVICE.fullmatch(name) else ""


def _check_name(name: str, what: str, hint: str = "") -> None:
    """Refuse an unknown setting, and suggest the closest known one."""
    if name not in Settings.model_fields:
        close = difflib.get_close_matches(name, Settings.model_fields, 1)
        meant = f" (did you mean '{close[0]}'?)" if close and not hint else ""
        raise UsageError(
            f"unknown setting {what}{meant}: expected one of "
            + ", ".join(Settings.model_fields)
            + hint
        ) from None


def show(settings: Settings, given: dict[str, object]) -> list[SettingInfo]:
    """Return every setting with its source: a flag, the environment, the file or the default."""
    environment = EnvSettingsSource(Settings)()
    file = _toml(Settings, settings.config)() if settings.config else {}
    found = []
    for name, field in Settings.model_fields.items():
        if name in given:
            source = f"--{name.replace('_', '-')}" if name != "paths" else "argument"
        elif name in environment:
            source = PREFIX + name.upper()
        else:
            source = str(settings.config) if name in file else "default"
        value = without_secrets(settings.model_dump(mode="json")[name])
        found.append(SettingInfo(name, value, source, field.description or ""))
    return found


def without_secrets(value: object) -> object:
    """Return a value that is safe to print: URLs lose their user and password, and their query."""
    if isinstance(value, list):
        return [redact(item) if isinstance(item, str) else item for item in value]
    return redact(PASSWORD.sub("***@", value)) if isinstance(value, str) else value


def _toml(settings_cls: type[BaseSettings], file: Path) -> TomlConfigSettingsSource:
    if not file.is_file():
        raise UsageError(f"cannot read the settings: '{file}' is not a file")
    try:
        return TomlConfigSettingsSource(settings_cls, file)
    except (OSError, ValueError) as error:  # tomllib.TOMLDecodeError is a ValueError
        raise UsageError(f"cannot read the settings from '{file}': {error}") from None
