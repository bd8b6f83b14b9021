"""The fixtures of `served`: archives, each wrong in its own way if asked, and real servers."""

from served import archives, free_port, launch, make_archive, make_in, own_log, reference, server

__all__ = [
    "archives",
    "free_port",
    "launch",
    "make_archive",
    "make_in",
    "own_log",
    "reference",
    "server",
]
