"""The game of snake, and how policies learn it."""
