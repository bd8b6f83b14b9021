"""Which archives there are, and which of them are loaded and live."""
