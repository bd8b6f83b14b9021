"""Shared parts of the training recipes: gradient descent, the journal, the weights store."""
