"""The archive format without LibTorch: manifest, golden cases, signatures and file content."""
