"""Archives loaded and run: TorchScript, the signature's checks, operators, printing."""
