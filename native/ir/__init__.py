"""The program between TorchScript and C."""
