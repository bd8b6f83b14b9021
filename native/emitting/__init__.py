"""From programs to C."""
