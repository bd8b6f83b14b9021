"""Runs compiled archives in this process."""
