"""Turns an eager module into an archive, or refuses it with a reason."""
