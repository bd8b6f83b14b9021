"""Loads and runs archives: TorchScript, checks against the signature, operators, printing."""
