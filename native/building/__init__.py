"""Calls compilers, and keeps what they made."""
