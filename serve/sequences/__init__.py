"""Sequences: recurrent state that stays on the server, in memory or in Redis."""
