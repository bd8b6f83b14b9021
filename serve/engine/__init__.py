"""One loaded archive: its queue, its batches, its calls, and its proof before it answers."""
