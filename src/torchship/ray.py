"""The short name of the application on Ray: `serve run torchship.ray:build_app models=FOLDER`."""

from torchship.serve.ray.deployment import build_app

__all__ = ["build_app"]
