"""Compiles archives to C."""
