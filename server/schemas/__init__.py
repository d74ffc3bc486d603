"""Wire types of the service."""
