"""The version of this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the installed version; "0" when run from a checkout that is not installed."""
    try:
        return version("torchship")
    except PackageNotFoundError:
        return "0"
