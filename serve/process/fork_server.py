"""The process that starts workers: it has imported everything once, and forks.

What it has imported, 150 MB with torch, its workers share. It is safe to fork because nothing runs
in it: no thread, no model, no event loop. Where the supervisor can wait for the workers in its
stead, it ends when no worker was asked for in a while, and another is started when one is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys

from torchship.serve.system.interpreter import command

LINGER_SECONDS = 10.0
BORN_SECONDS = 120.0  # to import everything, and fork
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
REQUEST = b"fork"
LONGEST_WORD = 1 << 12


class ForkServer:
    """The supervisor's side; for use from one event loop."""

    def __init__(self) -> None:
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._lock = asyncio.Lock()
        self._linger = [str(LINGER_SECONDS)] if _adopt_orphans() else []
        if self._linger:
            asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        self._process: subprocess.Popen[bytes] | None = None
        self._end: socket.socket | None = None
        self._came = b""
        self._born: asyncio.Future[tuple[int, asyncio.Future[int]]] | None = None
        self._closed = False

    async def start(self, descriptors: list[int]) -> tuple[int, asyncio.Future[int]]:
        """Start a worker that is given these open files.

        Returns:
            Its process id, and its exit code when it has ended; negative: by which signal. If the
            nursery dies first, nobody knows the exit code.

        Raises:
            OSError: no process could be started.
        """
        async with self._lock:
            try:
                return await self._ask(descriptors)
            except OSError:  # it was about to end
                return await self._ask(descriptors)

    async def _ask(self, descriptors: list[int]) -> tuple[int, asyncio.Future[int]]:
        if self._closed:
            raise OSError("no worker is started any more")
        if self._end is None:
            self._open()
        assert self._end is not None
        self._born = asyncio.get_running_loop().create_future()
        socket.send_fds(self._end, [REQUEST], descriptors)
        try:
            return await asyncio.wait_for(self._born, BORN_SECONDS)
        except asyncio.TimeoutError:
            self._close()
            raise OSError(f"no worker was started within {BORN_SECONDS:g} s") from None

    def _open(self) -> None:
        own, given = socket.socketpair()
        with given:
            # A terminal's Ctrl-C comes to the supervisor only, and from it to the workers.
            self._process = subprocess.Popen(
                command(__name__, str(given.fileno()), *self._linger),
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[given.fileno()],
                start_new_session=True,
            )
        own.setblocking(False)
        self._end, self._came = own, b""
        asyncio.get_running_loop().add_reader(own.fileno(), self._read)

    def _read(self) -> None:
        assert self._end is not None
        try:
            data = self._end.recv(LONGEST_WORD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        *lines, self._came = (self._came + data).split(b"\n")
        for line in lines:
            word = json.loads(line)
            if "born" in word and self._born is not None and not self._born.done():
                code = asyncio.get_running_loop().create_future()
                self._exits[word["born"]] = code
                self._born.set_result((word["born"], code))
            elif "ended" in word:
                self._tell(word["ended"], word["code"])

    def _reap(self) -> None:
        """Take the exit codes of workers whose nursery has ended, and of what workers left."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._tell(ended[0], os.waitstatus_to_exitcode(ended[1]))

    def _tell(self, pid: int, exit_code: int) -> None:
        code = self._exits.pop(pid, None)
        if code is not None and not code.done():
            code.set_result(exit_code)

    def _close(self) -> None:
        """Let go of a nursery that has died: the next worker gets a new one."""
        if self._end is not None:
            asyncio.get_running_loop().remove_reader(self._end.fileno())
            self._end.close()
            self._end = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._born is not None and not self._born.done():
            self._born.set_exception(OSError("the process that starts workers has died"))

    def close(self) -> None:
        """End the nursery, also if it hangs; the workers go on."""
        self._closed = True
        self._close()


def _adopt_orphans() -> bool:
    """Become the parent of what children of this process leave behind; False where none can."""
    try:
        return bool(ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def main() -> None:
    """Fork a worker whenever the supervisor asks, and tell it when one has ended.

    Arguments: the descriptor of the channel; after how many seconds without a wish to end.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of numpy, which is only used for bytes
    from torchship.serve.process.worker import Descriptors, name_process, run

    name_process("torchship-start")
    gc.collect()
    gc.freeze()  # a collection in a worker would touch, and so copy, all that is shared
    end = socket.socket(fileno=int(sys.argv[1]))
    # Blocked rather than ignored: one that comes to a worker as soon as it is born is not lost.
    blocked = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    bell, ring = socket.socketpair()
    ring.setblocking(False)
    bell.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ring.fileno(), warn_on_full_buffer=False)
    linger = float(sys.argv[2]) if len(sys.argv) > 2 else None
    while True:
        ready, _, _ = select.select([end, bell], [], [], linger)
        if not ready:
            return
        if bell in ready:
            bell.recv(LONGEST_WORD)
            _reap(end)
        if end not in ready:
            continue
        data, numbers, _, _ = socket.recv_fds(end, len(REQUEST), 8)
        if not data:
            return
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            for held in (end, bell, ring):
                held.close()
            for reset in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
                signal.signal(reset, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
            run(Descriptors.of(list(numbers)))
            return
        for number in numbers:
            os.close(number)
        _say(end, {"born": child})


def _reap(end: socket.socket) -> None:
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not child:
            return
        _say(end, {"ended": child, "code": os.waitstatus_to_exitcode(status)})


def _say(end: socket.socket, word: dict[str, int]) -> None:
    end.sendall(json.dumps(word).encode() + b"\n")
