"""What the training recipes share: the descent, its journal, and the weights' store."""
