"""The inference server: archives behind the Open Inference Protocol V2, and a client for it."""
