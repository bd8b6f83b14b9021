"""Improves programs."""
