"""The page as a folder for any static host: each archive compiled to WebAssembly, and no server."""
