"""The C++ runner: LibTorch without Python. See `docs/architecture.md` for its rooms."""
