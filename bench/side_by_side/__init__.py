"""What `make bench` measures side by side: compiled models, LibTorch, and other runtimes."""
