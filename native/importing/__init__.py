"""From TorchScript graphs to programs."""
