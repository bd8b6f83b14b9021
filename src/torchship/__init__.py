"""Ship a PyTorch model as one archive that proves itself in eager, TorchScript, C++ and HTTP."""
