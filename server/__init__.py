"""The HTTP service: routes, limits and wire formats around the library."""
