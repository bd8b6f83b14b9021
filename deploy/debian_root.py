"""A Debian in a folder, made by debootstrap, and programs that run in it as in a container.

    python deploy/debian_root.py SUITE FOLDER

It needs root and Linux. What is mounted lies in a mount namespace, and what runs in a process
namespace, so nothing is left behind when the program ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DEVICES = ("full", "null", "random", "urandom", "zero")
# $1 is the root, $2 "ro" or "rw", $3 the number of pairs of folders that follow, each mounted
# read-only. The rest is chroot's.
ENTER = """
root=$1 mode=$2 pairs=$3
shift 3
mount --bind "$root" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o nosuid,mode=755 tmpfs "$root/dev"
for device in $DEVICES; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
while [ "$pairs" -gt 0 ]; do
  mount --bind "$1" "$root$2"
  mount -o remount,bind,ro "$root$2"
  shift 2
  pairs=$((pairs - 1))
done
if [ "$mode" = ro ]; then
  mount -t tmpfs -o nosuid,nodev,noexec,mode=1777 tmpfs "$root/tmp"
  mount -o remount,bind,ro "$root"
fi
exec setpriv --no-new-privs chroot "$@"
"""


@dataclass(frozen=True)
class Container:
    """How programs run in a root."""

    root: Path
    user: str = "0:0"  # user and group, as numbers
    folder: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[Path, str] = field(default_factory=dict)  # folders here, read-only there
    read_only: bool = False  # but for /tmp, which is then empty

    def command(self, program: Sequence[str]) -> list[str]:
        """Return the command that runs a program in the root, as the first process there."""
        for target in self.mounts.values():
            (self.root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
        pairs = [part for here, there in self.mounts.items() for part in (str(here), there)]
        # `env` looks the program up in the PATH that it sets.
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
            *("env", f"DEVICES={' '.join(DEVICES)}", "sh", "-ec", ENTER, "sh"),
            *(str(self.root), "ro" if self.read_only else "rw", str(len(self.mounts)), *pairs),
            *(f"--userspec={self.user}", str(self.root)),
            *("/usr/bin/env", "-i", f"--chdir={self.folder}", *variables, *program),
        ]

    def run(self, *program: str) -> str:
        """Run a program to its end; return what it prints.

        Raises:
            RootError: it failed; the message has the last lines that it wrote.
        """
        done = subprocess.run(
            self.command(program),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            tail = "\n".join(done.stdout.splitlines()[-15:])
            raise RootError(f"in {self.root}: '{' '.join(program)}' failed:\n{tail}")
        return done.stdout


class RootError(Exception):
    """A root could not be made, or a program failed in it."""


def debian(suite: str, folder: Path) -> Path:
    """Return a folder with a minimal Debian of a release, which is made once.

    Raises:
        RootError: this user or machine cannot make one, or Debian's mirror does not answer.
    """
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise RootError("needs root and debootstrap; run: sudo apt-get install -y debootstrap")
    if (folder / ".made").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", suite, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RootError("debootstrap: " + "\n".join(done.stdout.splitlines()[-3:]))
    (folder / ".made").touch()
    return folder


if __name__ == "__main__":
    try:
        debian(sys.argv[1], Path(sys.argv[2]))
    except RootError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
