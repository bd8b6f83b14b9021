"""The fork server: a process that has imported everything once and forks the workers.

Workers share the memory of what it imported, 150 MB with torch. Forking is safe because the process
runs no thread, no model and no event loop. If the supervisor can adopt the workers, the fork server
ends when no worker was requested for a while, and is started again for the next one.
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

from torchship.serve.system.interpreter import command, name_process

LINGER_SECONDS = 10.0
START_SECONDS = 120.0  # limit to import everything and fork
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
REQUEST = b"fork"
READ_BYTES = 1 << 12


class ForkServer:
    """The supervisor's side; used from one event loop."""

    def __init__(self) -> None:
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._lock = asyncio.Lock()
        self._linger = [str(LINGER_SECONDS)] if _adopt_orphans() else []
        if self._linger:
            asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        self._process: subprocess.Popen[bytes] | None = None
        self._end: socket.socket | None = None
        self._received = b""
        self._starting: asyncio.Future[tuple[int, asyncio.Future[int]]] | None = None
        self._closed = False

    async def start(self, descriptors: list[int]) -> tuple[int, asyncio.Future[int]]:
        """Start a worker that inherits these open files.

        Returns:
            Its process id, and a future of its exit code (negative: the signal that ended it). The
            future never completes if the fork server dies first and nobody adopts the worker.

        Raises:
            OSError: no process could be started.
        """
        async with self._lock:
            try:
                return await self._ask(descriptors)
            except OSError:  # the fork server was about to end: start another one
                return await self._ask(descriptors)

    async def _ask(self, descriptors: list[int]) -> tuple[int, asyncio.Future[int]]:
        if self._closed:
            raise OSError("no worker is started any more")
        if self._end is None:
            self._open()
        assert self._end is not None
        self._starting = asyncio.get_running_loop().create_future()
        socket.send_fds(self._end, [REQUEST], descriptors)
        try:
            return await asyncio.wait_for(self._starting, START_SECONDS)
        except asyncio.TimeoutError:
            self._close()
            raise OSError(f"no worker was started within {START_SECONDS:g} s") from None

    def _open(self) -> None:
        own, given = socket.socketpair()
        with given:
            # In a session of its own, it and the workers do not get a terminal's Ctrl-C twice.
            self._process = subprocess.Popen(
                command(__name__, str(given.fileno()), *self._linger),
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[given.fileno()],
                start_new_session=True,
            )
        own.setblocking(False)
        self._end, self._received = own, b""
        asyncio.get_running_loop().add_reader(own.fileno(), self._read)

    def _read(self) -> None:
        assert self._end is not None
        try:
            data = self._end.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "started" in message and self._starting is not None and not self._starting.done():
                code = asyncio.get_running_loop().create_future()
                self._exits[message["started"]] = code
                self._starting.set_result((message["started"], code))
            elif "ended" in message:
                self._resolve_exit(message["ended"], message["code"])

    def _reap(self) -> None:
        """Collect exit codes of adopted processes: workers, and processes that workers started."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._resolve_exit(ended[0], os.waitstatus_to_exitcode(ended[1]))

    def _resolve_exit(self, pid: int, exit_code: int) -> None:
        code = self._exits.pop(pid, None)
        if code is not None and not code.done():
            code.set_result(exit_code)

    def _close(self) -> None:
        """Clean up after a fork server that has died; the next worker gets a new one."""
        if self._end is not None:
            asyncio.get_running_loop().remove_reader(self._end.fileno())
            self._end.close()
            self._end = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._starting is not None and not self._starting.done():
            self._starting.set_exception(OSError("the process that starts workers has died"))

    def close(self) -> None:
        """End the fork server, even if it hangs; the workers keep running."""
        self._closed = True
        self._close()


def _adopt_orphans() -> bool:
    """Make this process the parent of its children's orphans; return whether that is supported."""
    try:
        return bool(ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def main() -> None:
    """Fork a worker whenever the supervisor asks, and report when one has ended.

    Arguments: the descriptor of the channel; optionally, the idle seconds after which to end.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy is only used to copy bytes
    from torchship.serve.process.worker import Descriptors, run

    name_process("torchship-start")
    gc.collect()
    gc.freeze()  # a collection in a worker would write to, and so copy, the shared memory
    end = socket.socket(fileno=int(sys.argv[1]))
    # Block signals rather than ignore them: one sent to a newly forked worker is then not lost.
    blocked = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    wakeup, wakeup_writer = socket.socketpair()
    wakeup_writer.setblocking(False)
    wakeup.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup_writer.fileno(), warn_on_full_buffer=False)
    linger = float(sys.argv[2]) if len(sys.argv) > 2 else None
    while True:
        ready, _, _ = select.select([end, wakeup], [], [], linger)
        if not ready:
            return
        if wakeup in ready:
            wakeup.recv(READ_BYTES)
            _reap(end)
        if end not in ready:
            continue
        data, numbers, _, _ = socket.recv_fds(end, len(REQUEST), 8)
        if not data:
            return
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            for unneeded in (end, wakeup, wakeup_writer):
                unneeded.close()
            for reset in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
                signal.signal(reset, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
            run(Descriptors.of(list(numbers)))
            return
        for number in numbers:
            os.close(number)
        _send(end, {"started": child})


def _reap(end: socket.socket) -> None:
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not child:
            return
        _send(end, {"ended": child, "code": os.waitstatus_to_exitcode(status)})


def _send(end: socket.socket, message: dict[str, int]) -> None:
    end.sendall(json.dumps(message).encode() + b"\n")
