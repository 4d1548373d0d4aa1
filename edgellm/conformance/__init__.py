"""Whether a backend keeps its contract: small models of every family, run and compared."""
