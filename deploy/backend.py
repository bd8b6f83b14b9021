"""The build backend: scikit-build-core's, for a checkout that has its symbolic links.

`src/torchship/` links to the rooms at the top. Git writes small text files instead where it may not
make links, and a package made of those would lack nine files of ten without a word.
"""

import sys
from pathlib import Path

from scikit_build_core.build import *  # noqa: F403

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
