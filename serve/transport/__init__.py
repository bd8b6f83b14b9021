"""Connections: uvicorn's protocol classes with our limits, and the fast path of small requests."""
