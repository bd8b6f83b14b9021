"""The build backend: scikit-build-core's, for a checkout that has its symbolic links.

`src/torchship/` links to the rooms at the top. Git writes small text files instead where it may not
make links, and a package made of those would lack nine files of ten without a word.

It also sees to the libraries of the page, which git does not have: see `page_assets`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import page_assets
from scikit_build_core import build as _build
from scikit_build_core.build import (
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_Settings = dict[str, list[str] | str] | None

_ROOMS = {
    "cpp_runner": "cpp_runner/python",
    "models": "models",
    "native": "native",
    "script": "script",
    "serve": "serve",
    "ui": "ui",
}
_NAMESPACE = Path(__file__).resolve().parent.parent / "src" / "torchship"

for _room, _folder in _ROOMS.items():
    if not (_NAMESPACE / _room / "__init__.py").is_file():
        sys.exit(
            f"torchship: 'src/torchship/{_room}' is not the link to '{_folder}' that it should be: "
            "expected a checkout with symbolic links; clone it again with "
            "`git clone -c core.symlinks=true`, or unpack the sdist with tar"
        )


def get_requires_for_build_wheel(config_settings: _Settings = None) -> list[str]:
    """Return scikit-build-core's requirements, and npm where it is needed and missing."""
    return [*_build.get_requires_for_build_wheel(config_settings), *page_assets.needs()]


def get_requires_for_build_editable(config_settings: _Settings = None) -> list[str]:
    """Return scikit-build-core's requirements, and npm where it is needed and missing."""
    return [*_build.get_requires_for_build_editable(config_settings), *page_assets.needs()]


def get_requires_for_build_sdist(config_settings: _Settings = None) -> list[str]:
    """Return scikit-build-core's requirements, and npm where it is needed and missing."""
    return [*_build.get_requires_for_build_sdist(config_settings), *page_assets.needs()]


def build_wheel(
    wheel_directory: str, config_settings: _Settings = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel with the libraries of the page in it."""
    page_assets.fetch()
    return _build.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: _Settings = None, metadata_directory: str | None = None
) -> str:
    """Build an editable wheel, with the libraries of the page beside its sources."""
    page_assets.fetch()
    return _build.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: _Settings = None) -> str:
    """Build an sdist that needs no npm: the libraries of the page are in it."""
    page_assets.fetch()
    return _build.build_sdist(sdist_directory, config_settings)
