"""What each operator of TorchScript becomes."""
