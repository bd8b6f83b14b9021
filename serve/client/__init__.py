"""The other side: a client, a server for a `with` block, and the HTTP runtime of `verify`."""

from torchship.serve.client.client import Client

__all__ = ["Client"]
