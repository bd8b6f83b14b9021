"""What a replica is told: its archives and its server's settings, as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from torchship.serve.process.messages import Credentials
from torchship.serve.ray.shipping import Shipped


class Blueprint(BaseModel):
    """All that a replica is made from. It is JSON on its way, so that it pickles as plain text."""

    model_config = ConfigDict(frozen=True)

    shipped: tuple[Shipped, ...]
    """Archives to take from the cluster's store."""
    paths: tuple[str, ...]
    """Archives and folders that each node can read, and addresses of stores."""
    names: tuple[str, ...]
    """The models, in the order in which they are loaded; empty if only the stores know them."""
    settings: str
    """`Settings` as JSON."""
    credentials: Credentials
    max_models: int | None
