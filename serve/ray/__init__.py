"""Ray Serve as a transport: many replicas of one server, on the machines of a Ray cluster."""
