"""A client, a local server for the length of a `with` block, and the HTTP runtime of `verify`."""

from torchship.serve.client.client import Client

__all__ = ["Client"]
