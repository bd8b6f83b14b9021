"""What requests and batches cost: metrics, statistics, logs and traces."""
