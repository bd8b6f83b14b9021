"""The Open Inference Protocol V2 without I/O: messages and tensors, from bytes and to bytes."""
