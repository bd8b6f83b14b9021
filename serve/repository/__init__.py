"""The archives of a server: found, loaded, verified, live and replaced."""
