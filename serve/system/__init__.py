"""Wrappers of the operating system: processes, threads, shared memory, standard streams."""
