"""Files: reading with clear errors, atomic writing, paths, locks, hashes."""
