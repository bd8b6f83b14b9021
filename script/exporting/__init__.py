"""From an eager module to an archive: what is examined, derived and refused."""
