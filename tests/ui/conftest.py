"""The fixtures of `served`: hand-made archives and real servers."""

from served import archives, launch, make_in

__all__ = ["archives", "launch", "make_in"]
