"""Metrics, statistics, logs and traces of requests and batches."""
