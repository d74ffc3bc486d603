"""Wire types: what goes over HTTP, and nothing else."""
