"""Writes the server's settings into the schema of the chart's values: run it when they change.

python deploy/chart_schema.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torchship.serve.settings import Settings

FILE = Path(__file__).resolve().parent / "chart" / "torchship" / "values.schema.json"
# What the chart sets by itself, from values of other names.
OWN = {
    *("paths", "config", "host", "port", "grpc_port", "api_keys", "tls_cert", "tls_key"),
    *("trusted_keys", "drain_seconds", "shutdown_seconds"),
    *("store_cache", "store_cache_bytes"),
}


def with_settings(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the values with that of `settings` as the server has it."""
    fields = Settings.model_json_schema()["properties"]
    settings = {name: _plain(fields[name]) for name in sorted(fields.keys() - OWN)}
    return {
        **schema,
        "properties": {
            **schema["properties"],
            "settings": {
                "type": "object",
                "additionalProperties": False,
                "properties": settings,
            },
        },
    }


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    """Return a field without what is for readers, and with null, by which Helm drops a default."""
    dropped = {"title", "default", "format"}
    kept: dict[str, Any] = {}
    for key, value in field.items():
        if key == "items":
            kept[key] = {k: v for k, v in value.items() if k not in dropped}
        elif key not in dropped:
            kept[key] = value
    options = kept.pop("anyOf", None)
    if options is None:
        inner = {k: kept.pop(k) for k in list(kept) if k != "description"}
        options = [inner, {"type": "null"}]
    return {**kept, "anyOf": [{k: v for k, v in o.items() if k not in dropped} for o in options]}


if __name__ == "__main__":
    FILE.write_text(json.dumps(with_settings(json.loads(FILE.read_text())), indent=2) + "\n")
