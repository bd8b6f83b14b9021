"""The fixtures of `served`: hand-made archives and real servers."""

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
